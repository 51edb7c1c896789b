//! How busy other programs keep the processor.

use std::time::Instant;

use sysinfo::{CpuRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, RefreshKind, System};

/// Watches the processor from its start on, where the system tells anything of it.
pub(crate) struct LoadMeter(Option<Watch>);

struct Watch {
    system: System,
    process: Pid,
    started: Instant,
    own_before: u64,
}

impl LoadMeter {
    /// Starts watching.
    pub(crate) fn start() -> Self {
        let cpu = CpuRefreshKind::nothing().with_usage();
        let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(cpu)).ok();
        let watch = system.and_then(|mut system| {
            let process = sysinfo::get_current_pid().ok()?;
            let own_before = own_milliseconds(&mut system, process)?;
            Some(Watch { system, process, started: Instant::now(), own_before })
        });
        Self(watch)
    }

    /// The share of all processors' time, 0 to 1, that other programs took since the start. None where the system does not
    /// tell, and where too little time has passed to tell.
    pub(crate) fn others(self) -> Option<f64> {
        let Watch { mut system, process, started, own_before } = self.0?;
        let elapsed = started.elapsed();
        if elapsed < sysinfo::MINIMUM_CPU_UPDATE_INTERVAL {
            return None;
        }
        system.refresh_cpu_usage();
        let processors = system.cpus().len();
        let own = own_milliseconds(&mut system, process)?.saturating_sub(own_before);
        let busy = f64::from(system.global_cpu_usage()) / 100.0;
        let available = elapsed.as_secs_f64() * 1e3 * processors as f64;
        (processors > 0).then(|| (busy - own as f64 / available).clamp(0.0, 1.0))
    }
}

/// Processor time of this process and its threads, in milliseconds.
fn own_milliseconds(system: &mut System, process: Pid) -> Option<u64> {
    let (one, kind) =
        (ProcessesToUpdate::Some(&[process]), ProcessRefreshKind::nothing().with_cpu());
    system.refresh_processes_specifics(one, false, kind);
    Some(system.process(process)?.accumulated_cpu_time())
}
