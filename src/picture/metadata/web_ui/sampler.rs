//! The sampler that the web UI names.

use crate::scheduler::SchedulerKind;

/// The sampler by the web UI's name (`modules/sd_samplers_kdiffusion.py`,
/// `sd_samplers_timesteps.py`) and schedule, where there is the same here. Before version 1.9 the
/// schedule was the end of the name; since then `Automatic` is each sampler's own.
pub(super) fn sampler(name: &str, schedule: Option<&str>) -> Option<SchedulerKind> {
    let (name, schedule) = match (name.strip_suffix(" Karras"), schedule) {
        (Some(name), None | Some("Automatic" | "Karras")) => (name, "Karras"),
        (_, Some("Automatic")) => match name {
            "DPM++ 2M" | "DPM2" | "DPM2 a" => (name, "Karras"),
            "DPM++ 2M SDE" => (name, "Exponential"),
            _ => (name, "Uniform"),
        },
        (_, schedule) => (name, schedule.unwrap_or("Uniform")),
    };
    Some(match (name, schedule) {
        ("DPM++ 2M", "Karras") => SchedulerKind::DpmSolverKarras,
        ("DPM++ 2M SDE", "Karras") => SchedulerKind::DpmSolverSdeKarras,
        (_, schedule) if schedule != "Uniform" => return None,
        ("DPM++ 2M", _) => SchedulerKind::DpmSolver,
        ("DPM++ 2M SDE", _) => SchedulerKind::DpmSolverSde,
        ("Euler a", _) => SchedulerKind::EulerAncestral,
        ("Euler", _) => SchedulerKind::Euler,
        ("LMS", _) => SchedulerKind::Lms,
        ("Heun", _) => SchedulerKind::Heun,
        ("DPM2", _) => SchedulerKind::Kdpm2,
        ("DPM2 a", _) => SchedulerKind::Kdpm2Ancestral,
        ("DDIM", _) => SchedulerKind::Ddim,
        ("PLMS", _) => SchedulerKind::Pndm,
        ("UniPC", _) => SchedulerKind::UniPc,
        ("LCM", _) => SchedulerKind::Lcm,
        ("DDPM", _) => SchedulerKind::Ddpm,
        ("DEIS", _) => SchedulerKind::Deis,
        ("TCD", _) => SchedulerKind::Tcd,
        _ => return None,
    })
}
