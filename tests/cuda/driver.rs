//! The rules of the driver that the program rests on, asked of the driver itself: so an emulated GPU is held to what a real one
//! does.

#![expect(unsafe_code, reason = "the driver is asked without a wrapper in between")]

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::Arc;

use candle_core::Device;
use candle_core::cuda::cudarc::driver::sys::{
    self, CUdeviceptr, CUgraph, CUgraphExec, CUresult, CUstream, CUstreamCaptureMode,
};
use candle_core::cuda::cudarc::driver::{CudaStream, DriverError};

use crate::gpu;

const KIB: usize = 1024;

/// A stream whose context is this thread's.
fn stream(device: &Device) -> Arc<CudaStream> {
    let stream = device.as_cuda_device().unwrap().cuda_stream();
    stream.context().bind_to_thread().unwrap();
    stream
}

fn error(result: CUresult) -> Option<CUresult> {
    result.result().err().map(|DriverError(code)| code)
}

fn done(result: CUresult) {
    assert_eq!(error(result), None);
}

fn allocate(bytes: usize, stream: CUstream) -> CUdeviceptr {
    let mut start = 0;
    // SAFETY: it writes one pointer.
    done(unsafe { sys::cuMemAllocAsync(&raw mut start, bytes, stream) });
    start
}

fn begin(stream: CUstream) {
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream is alive; so in all that follows.
    done(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
}

fn end(stream: CUstream) -> Result<CUgraph, CUresult> {
    let mut graph = null_mut();
    // SAFETY: it writes one handle.
    unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) }
        .result()
        .map_err(|error| error.0)
        .map(|()| graph)
}

/// Makes a graph of what `work` gives to the stream, and hands its executable to `use_it`.
fn with_graph(stream: CUstream, work: impl FnOnce(), use_it: impl FnOnce(CUgraphExec)) {
    begin(stream);
    work();
    let graph = end(stream).unwrap();
    let mut executable = null_mut();
    // SAFETY: the handles are those that the driver gave, and each is destroyed once.
    unsafe {
        done(sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0));
        use_it(executable);
        done(sys::cuStreamSynchronize(stream));
        done(sys::cuGraphExecDestroy(executable));
        done(sys::cuGraphDestroy(graph));
    }
}

fn bytes_at(start: CUdeviceptr, count: usize) -> Vec<u8> {
    let mut values = vec![0; count];
    // SAFETY: there are as many bytes on both sides, and no work is recorded meanwhile.
    done(unsafe { sys::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), start, count) });
    values
}

#[test]
fn a_recording_that_waits_is_broken_and_the_next_is_not() {
    let Some((device, _guard)) = gpu() else { return };
    let stream = stream(&device);
    let stream = stream.cu_stream();
    begin(stream);
    // SAFETY: the stream is alive.
    let refused = unsafe { sys::cuStreamSynchronize(stream) };
    assert_eq!(error(refused), Some(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
    assert_eq!(end(stream), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    // SAFETY: as above.
    done(unsafe { sys::cuStreamSynchronize(stream) });
    with_graph(stream, || (), |_| ());
}

#[test]
fn memory_from_before_a_recording_cannot_be_freed_in_it() {
    let Some((device, _guard)) = gpu() else { return };
    let stream = stream(&device);
    let stream = stream.cu_stream();
    let start = allocate(KIB, stream);
    begin(stream);
    // SAFETY: the memory is not used afterwards, unless it was not freed.
    let refused = unsafe { sys::cuMemFreeAsync(start, stream) };
    assert_eq!(error(refused), Some(CUresult::CUDA_ERROR_INVALID_VALUE));
    let _ = end(stream);
    // SAFETY: nobody uses it any more.
    done(unsafe { sys::cuMemFreeAsync(start, stream) });
}

#[test]
fn what_is_recorded_is_done_when_it_is_replayed_each_time() {
    let Some((device, _guard)) = gpu() else { return };
    let stream = stream(&device);
    let stream = stream.cu_stream();
    let start = allocate(KIB, stream);
    // SAFETY: all of the memory is this test's.
    let fill = |value| done(unsafe { sys::cuMemsetD8Async(start, value, KIB, stream) });
    let work = || {
        let own = allocate(KIB, stream);
        // SAFETY: the memory is the graph's, and is freed behind its last use.
        unsafe {
            done(sys::cuMemsetD8Async(own, 7, KIB, stream));
            done(sys::cuMemcpyDtoDAsync_v2(start, own, KIB, stream));
            done(sys::cuMemFreeAsync(own, stream));
        }
    };
    fill(1);
    with_graph(stream, work, |graph| {
        assert_eq!(bytes_at(start, KIB), [1; KIB]);
        for _ in 0..2 {
            // SAFETY: the memory that the graph writes to is still there.
            done(unsafe { sys::cuGraphLaunch(graph, stream) });
            assert_eq!(bytes_at(start, KIB), [7; KIB]);
            fill(2);
        }
    });
    assert_eq!(bytes_at(start, KIB), [2; KIB]);
    // SAFETY: nobody uses it any more.
    done(unsafe { sys::cuMemFreeAsync(start, stream) });
}

#[test]
fn a_graph_that_keeps_its_memory_is_replayed_once_it_is_freed() {
    let Some((device, _guard)) = gpu() else { return };
    let stream = stream(&device);
    let stream = stream.cu_stream();
    let own = Cell::new(0);
    with_graph(
        stream,
        || own.set(allocate(KIB, stream)),
        // SAFETY: the memory is freed once for each launch, behind it.
        |graph| unsafe {
            done(sys::cuGraphLaunch(graph, stream));
            let again = sys::cuGraphLaunch(graph, stream);
            assert_eq!(error(again), Some(CUresult::CUDA_ERROR_INVALID_VALUE));
            done(sys::cuMemFreeAsync(own.get(), stream));
            done(sys::cuGraphLaunch(graph, stream));
            done(sys::cuMemFreeAsync(own.get(), stream));
        },
    );
}

#[test]
fn too_much_memory_is_refused_and_the_rest_can_still_be_had() {
    let Some((device, _guard)) = gpu() else { return };
    let stream = stream(&device);
    let (mut free, mut total, mut start) = (0, 0, 0);
    // SAFETY: they write numbers and one pointer.
    let refused = unsafe {
        done(sys::cuMemGetInfo_v2(&raw mut free, &raw mut total));
        sys::cuMemAllocAsync(&raw mut start, 2 * total, stream.cu_stream())
    };
    assert_eq!(error(refused), Some(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    assert!(0 < free && free <= total);
    let start = allocate(KIB, stream.cu_stream());
    // SAFETY: nobody uses it any more.
    done(unsafe { sys::cuMemFreeAsync(start, stream.cu_stream()) });
}
