//! Work that a GPU repeats with one launch: a captured CUDA graph.

#[cfg(feature = "cuda")]
use candle_core::cuda::cudarc::driver::CudaGraph;
#[cfg(feature = "cuda")]
use candle_core::cuda::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::{Device, Error, Result};

#[cfg(feature = "cuda")]
use super::stream::{Stream, device_error};

/// Work that was captured on a GPU. Every pointer and number that the host gave while it was captured stays as it was.
pub struct CapturedGraph {
    /// None only while it is dropped.
    #[cfg(feature = "cuda")]
    graph: Option<CudaGraph>,
    #[cfg(feature = "cuda")]
    stream: Stream,
}

// SAFETY: a graph belongs to its context, not to a thread; `CudaGraph` binds the context before each call, and nobody launches
// one graph from two threads at once, since that takes a mutable borrow.
#[cfg(feature = "cuda")]
unsafe impl Send for CapturedGraph {}

impl CapturedGraph {
    /// Records what `work` gives to the GPU, without doing it. `work` must free what it allocates, wait for nothing, and copy
    /// nothing from or to the host.
    ///
    /// # Errors
    /// When the device is no GPU, when `work` fails, or when it does what cannot be captured.
    pub fn capture(device: &Device, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if let Some(Stream(stream)) = Stream::of(device) {
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            stream.begin_capture(mode).map_err(device_error)?;
            let done = work();
            // Whatever happened: the stream must not stay in this state.
            let graph = stream.end_capture(CUgraphInstantiate_flags(0));
            done?;
            let graph = graph.map_err(device_error)?;
            let nothing = || Error::Msg("nothing was captured".to_owned()).bt();
            let graph = Some(graph.ok_or_else(nothing)?);
            return Ok(Self { graph, stream: Stream(stream) });
        }
        let _ = (device, work);
        Err(Error::Msg("only a GPU's work can be captured".to_owned()).bt())
    }

    /// Does the work once.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn replay(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(graph) = &self.graph {
            graph.launch().map_err(device_error)?;
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Drop for CapturedGraph {
    /// The memory of a graph is the driver's, which keeps it for the next one: others are to have it.
    fn drop(&mut self) {
        self.graph = None;
        // An error here is the next operation's.
        let _ = self.stream.trim_graph_memory();
    }
}
