//! What a build with the feature `cuda` takes from nvcc: the kernels, `src/ops/*/*.cu`, as PTX, the version that they were
//! made with, and the names of the driver's functions. cudaforge, which candle builds its kernels with, is not used: it
//! compiles for one generation of GPUs only from 90 on, where plain PTX would run on later ones too.

#![expect(
    clippy::disallowed_methods,
    reason = "they are for the program; here nothing is written that a reader could find half done"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The folder of the operations: each has a folder with its kernels, `.cu`; what kernels include, `.cuh`, is in this one.
const KERNELS: &str = "src/ops";

/// The oldest GPUs with bf16, and what is built for where neither the user nor a GPU says more.
const OLDEST: u32 = 80;

/// Compiles the kernels and tells the program what it was built with.
///
/// # Errors
/// One message for people.
pub(crate) fn prepare(out: &Path) -> Result<(), String> {
    for variable in ["CUDA_COMPUTE_CAP", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let release = release()?;
    let architecture = architecture()?;
    println!("cargo::rustc-env=MANTISSA_CUDA_VERSION={release}");
    println!("cargo::rustc-env=MANTISSA_CUDA_ARCHITECTURE={architecture}");
    kernels(out, &release, architecture)?;
    driver_functions(out)
}

/// nvcc's release, such as `13.0`.
fn release() -> Result<String, String> {
    let text = super::output("nvcc", &["--version"]).ok_or(
        "the feature cuda needs nvcc, of CUDA 12 or 13, on the PATH; without a CUDA toolkit, install one by \
         eval \"$(scripts/cuda-toolkit.sh)\"",
    )?;
    let rest = text.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    rest.map(str::to_owned).ok_or_else(|| format!("nvcc --version names no release: {text}"))
}

/// The compute capability to compile for, times ten. The rules are those of candle's kernels, but for the default.
fn architecture() -> Result<u32, String> {
    let asked = std::env::var("CUDA_COMPUTE_CAP").ok();
    let query = ["--query-gpu=compute_cap", "--format=csv,noheader"];
    let found = || Some(super::output("nvidia-smi", &query)?.lines().next()?.replace('.', ""));
    let Some(text) = asked.or_else(found) else {
        return Ok(OLDEST);
    };
    let digits = text.trim().trim_start_matches("sm_").trim_end_matches(['a', 'f']);
    let number: Option<u32> = digits.parse().ok();
    match number.map(|number| if number < 20 { number * 10 } else { number }) {
        Some(number) if number >= OLDEST => Ok(number),
        Some(_) => Err(format!(
            "CUDA_COMPUTE_CAP={text}: older than {OLDEST}, the first with bf16; set it to {OLDEST} or more"
        )),
        None => Err(format!(
            "CUDA_COMPUTE_CAP={text}: not a compute capability; write 80 for 8.0, 90 for 9.0"
        )),
    }
}

/// Compiles every kernel that changed, and writes `kernels.rs` with a constant for each.
fn kernels(out: &Path, release: &str, architecture: u32) -> Result<(), String> {
    let arch = format!("-arch=sm_{architecture}");
    // No fused multiply-add: the CPU's kernels round after each operation, and both must give the same bits.
    let flags = ["--ptx", "--fmad=false", "-std=c++17", "-I", KERNELS, arch.as_str()];
    let mut files = Vec::new();
    super::collect(Path::new(KERNELS), &mut files)
        .map_err(|error| format!("{KERNELS}: {error}"))?;
    files.sort();
    let headers = with_extension(&files, "cuh");
    let sources = with_extension(&files, "cu");
    let mut kernels = Vec::new();
    for source in &sources {
        kernels.push(Kernel::new(source, out, &format!("{release} {flags:?}"), &headers)?);
    }
    // This script runs at every change of the sources; what takes long is done only when it must be.
    let stale: Vec<&Kernel> = kernels.iter().filter(|kernel| !kernel.is_made()).collect();
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    for kernel in &stale {
        // What an interrupted nvcc leaves behind must not pass for the kernel of an older key.
        let _ = fs::remove_file(&kernel.key_file);
    }
    for batch in stale.chunks(jobs) {
        let started: Vec<_> = batch.iter().map(|kernel| kernel.start(&flags)).collect();
        for (kernel, child) in batch.iter().zip(started) {
            kernel.finish(child?)?;
        }
    }
    let mut code = String::new();
    for kernel in &kernels {
        let (source, name) = (kernel.source.display(), &kernel.name);
        // Writing to a string cannot fail.
        let _ = writeln!(
            code,
            "/// PTX of `{source}`.\npub(crate) const {}: &str = include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}.ptx\"));",
            name.to_uppercase()
        );
    }
    write(&out.join("kernels.rs"), &code)
}

/// One `.cu` file.
struct Kernel {
    source: PathBuf,
    name: String,
    ptx: PathBuf,
    /// A copy of all that the PTX was made from, written after it.
    key_file: PathBuf,
    key: String,
}

impl Kernel {
    fn new(source: &Path, out: &Path, how: &str, headers: &[PathBuf]) -> Result<Self, String> {
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut key = how.to_owned();
        for path in headers.iter().map(PathBuf::as_path).chain([source]) {
            let text = fs::read_to_string(path)
                .map_err(|error| format!("{}: cannot read: {error}", path.display()))?;
            let _ = write!(key, "\n{}\n{text}", path.display());
        }
        let [ptx, key_file] = ["ptx", "key"].map(|ending| out.join(format!("{name}.{ending}")));
        Ok(Self { source: source.to_owned(), name, ptx, key_file, key })
    }

    fn is_made(&self) -> bool {
        self.ptx.exists() && fs::read_to_string(&self.key_file).is_ok_and(|key| key == self.key)
    }

    fn start(&self, flags: &[&str]) -> Result<Child, String> {
        let mut nvcc = Command::new("nvcc");
        nvcc.args(flags).arg("-o").arg(&self.ptx).arg(&self.source);
        nvcc.stdout(Stdio::piped()).stderr(Stdio::piped());
        nvcc.spawn().map_err(|error| format!("cannot start nvcc: {error}"))
    }

    fn finish(&self, child: Child) -> Result<(), String> {
        let output =
            child.wait_with_output().map_err(|error| format!("cannot wait for nvcc: {error}"))?;
        if !output.status.success() {
            let [said, complained] =
                [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
            return Err(format!("{}: does not compile\n{said}{complained}", self.source.display()));
        }
        write(&self.key_file, &self.key)
    }
}

fn with_extension(files: &[PathBuf], extension: &str) -> Vec<PathBuf> {
    let files =
        files.iter().filter(|path| path.extension().is_some_and(|found| found == extension));
    files.cloned().collect()
}

/// Writes what `src/device/driver.rs` makes the driver's functions of: their names, and a jump through its table for each.
fn driver_functions(out: &Path) -> Result<(), String> {
    let header = out.join("driver.cu");
    write(&header, "#include <cuda.h>\n")?;
    let text = super::output("nvcc", &["-E", &header.to_string_lossy()])
        .ok_or("nvcc cannot read the header cuda.h; is the CUDA toolkit complete?")?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.split('(').filter_map(|before| {
        let word = before.trim_end().rsplit(|c| !is_part(c)).next()?;
        let rest = word.strip_prefix("cu")?;
        rest.starts_with(|c: char| c.is_ascii_uppercase()).then_some(word)
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    let (mut list, mut jumps) = (String::new(), String::from(".text\n"));
    for (index, name) in names.iter().enumerate() {
        let _ = write!(list, "c\"{name}\",");
        // Hidden: the driver's own library, loaded later, must not find these in place of its own.
        let _ = writeln!(
            jumps,
            ".globl {name}\n.hidden {name}\n.type {name}, @function\n{name}: jmp qword ptr [rip + {{table}} + {}]",
            8 * index
        );
    }
    let code = format!("const NAMES: [&CStr; {}] = [{list}];\n", names.len());
    write(&out.join("driver.rs"), &code)?;
    write(&out.join("driver.s"), &jumps)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: cannot write: {error}", path.display()))
}
