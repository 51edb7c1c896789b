//! The CUDA kernels, compiled as C++ with the emulator of `tests/cuda_emulation`, and what a launch of one needs.

use std::cell::Cell;
use std::ffi::{CStr, OsString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use libloading::Library;

/// Values before and behind each array that no kernel may touch.
const GUARD: usize = 32;

/// What the emulator is told of a launch; `emulator::Launch`.
#[repr(C)]
struct Launch {
    grid: [u32; 3],
    block: [u32; 3],
    backwards: u32,
    body: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
}

/// The kernels, with the order in which the threads of a block run.
#[derive(Clone, Copy)]
pub(crate) struct Device {
    library: &'static Library,
    backwards: bool,
}

/// Blocks of a grid and threads of a block, along x and y.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) grid: (u32, u32),
    pub(crate) block: (u32, u32),
}

/// One-dimensional blocks and grid.
pub(crate) fn line(blocks: u32, threads: u32) -> Geometry {
    Geometry { grid: (blocks, 1), block: (threads, 1) }
}

/// The kernels in both orders of threads; none, with a word about it, without a C++ compiler.
pub(crate) fn devices() -> Vec<Device> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| compiler().map(|compiler| compile(&compiler)));
    let Some(library) = library else {
        say_skipped();
        return vec![];
    };
    [false, true].map(|backwards| Device { library, backwards }).to_vec()
}

#[expect(clippy::print_stdout, reason = "a test that looked at nothing says so")]
fn say_skipped() {
    println!("skipped: no C++ compiler");
}

/// The first C++ compiler that answers.
fn compiler() -> Option<OsString> {
    let named = std::env::var_os("CXX").filter(|name| !name.is_empty());
    let names = named.into_iter().chain(["c++".into(), "g++".into()]);
    names.into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
    })
}

fn compile(compiler: &OsString) -> Library {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = root.join("src/ops");
    let folders = std::fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let mut sources: Vec<PathBuf> = files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("kernels.so");
    let output = Command::new(compiler)
        .args(["-x", "c++", "-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-shared"])
        // A fortified longjmp would take the fibers' stacks for a mistake.
        .arg("-U_FORTIFY_SOURCE")
        .args(["-Wall", "-Wextra", "-Werror"])
        .arg("-I")
        .arg(root.join("tests/cuda_emulation"))
        .arg("-I")
        .arg(shared)
        .args(sources)
        .arg("-o")
        .arg(&target)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library was just built from this project's sources, and does nothing as it is loaded.
    unsafe { Library::new(&target) }.unwrap()
}

impl Device {
    /// Runs a kernel to its end.
    ///
    /// The arguments must be the kernel's, in number and type: nothing checks it.
    pub(crate) fn launch(self, kernel: &str, geometry: Geometry, arguments: impl Arguments) {
        type Run = unsafe extern "C" fn(Launch) -> *const c_char;
        let error = Cell::new(std::ptr::null());
        // SAFETY: the types are those of the emulator's function and, as the caller promises, of the kernel; a body that
        // is called for each thread finds its call alive, since the launch ends before this block does.
        unsafe {
            let kernel = *self.library.get::<*const c_void>(kernel).unwrap();
            let run = self.library.get::<Run>("emulator_launch").unwrap();
            arguments.with_call(kernel, &mut |body, data| {
                error.set(run(Launch {
                    grid: [geometry.grid.0, geometry.grid.1, 1],
                    block: [geometry.block.0, geometry.block.1, 1],
                    backwards: u32::from(self.backwards),
                    body,
                    data,
                }));
            });
        }
        if !error.get().is_null() {
            // SAFETY: the emulator returns null or a constant string.
            let text = unsafe { CStr::from_ptr(error.get()) };
            panic!("{kernel} at {geometry:?}: {}", text.to_string_lossy());
        }
    }
}

/// The body of a thread and what it is called with.
type Body<'a> = &'a mut dyn FnMut(unsafe extern "C" fn(*mut c_void), *mut c_void);

/// A tuple of a kernel's arguments.
pub(crate) trait Arguments {
    /// Hands `launch` a function that calls `kernel` with these arguments.
    ///
    /// # Safety
    /// `kernel` must be a function of exactly these arguments.
    unsafe fn with_call(self, kernel: *const c_void, launch: Body<'_>);
}

macro_rules! arguments {
    ($($name:ident $value:ident),+) => {
        impl<$($name: Copy),+> Arguments for ($($name,)+) {
            unsafe fn with_call(self, kernel: *const c_void, launch: Body<'_>) {
                type Kernel<$($name),+> = unsafe extern "C" fn($($name),+);
                unsafe extern "C" fn body<$($name: Copy),+>(data: *mut c_void) {
                    // SAFETY: `with_call` hands out this function together with a pointer to just that.
                    let (kernel, ($($value,)+)) =
                        unsafe { *data.cast::<(Kernel<$($name),+>, ($($name,)+))>() };
                    // SAFETY: as the caller of `with_call` promises.
                    unsafe { kernel($($value),+) };
                }
                // SAFETY: as the caller promises; function and data pointers are of one size here.
                let kernel =
                    unsafe { std::mem::transmute::<*const c_void, Kernel<$($name),+>>(kernel) };
                let mut call = (kernel, self);
                launch(body::<$($name),+>, (&raw mut call).cast());
            }
        }
    };
}

arguments!(A a, B b, C c);
arguments!(A a, B b, C c, D d);
arguments!(A a, B b, C c, D d, E e);
arguments!(A a, B b, C c, D d, E e, F f);
arguments!(A a, B b, C c, D d, E e, F f, G g);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j);
arguments!(A a, B b, C c, D d, E e, F f, G g, H h, I i, J j, K k);

/// Values that kernels read and write, between guards that they may not touch.
pub(crate) struct Array<T> {
    memory: *mut [T],
    guard: T,
    start: usize,
    len: usize,
}

impl<T: Copy + PartialEq> Array<T> {
    /// An array of these values; `guard` stands around them.
    pub(crate) fn new(values: &[T], guard: T) -> Self {
        Self::shifted(values, guard, 0)
    }

    /// An array that starts `shift` values behind a multiple of 16 bytes.
    pub(crate) fn shifted(values: &[T], guard: T, shift: usize) -> Self {
        let mut memory = vec![guard; GUARD + shift];
        memory.extend(values);
        memory.extend([guard; GUARD]);
        let memory = Box::into_raw(memory.into_boxed_slice());
        Self { memory, guard, start: GUARD + shift, len: values.len() }
    }

    pub(crate) fn pointer(&self) -> *mut T {
        self.memory.cast::<T>().wrapping_add(self.start)
    }

    /// The values, after a look at the guards.
    pub(crate) fn values(&self) -> Vec<T> {
        // SAFETY: the memory is this array's own, and no kernel is running.
        let memory = unsafe { &*self.memory };
        let end = self.start + self.len;
        let untouched = memory[..self.start].iter().chain(&memory[end..]).all(|v| *v == self.guard);
        assert!(untouched, "a kernel wrote outside its array of {} values", self.len);
        memory[self.start..end].to_vec()
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and nothing else frees it.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}
