//! The firmware on an emulated Cortex-M4: behind a debug probe, and on a serial line of 115200 baud.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use hanas_tests::chip::image::Image;
use hanas_tests::chip::probe::ProbeBridge;
use hanas_tests::chip::{Board, NRF51822, STM32F405, firmware, has_emulator, host};
use hanas_tests::host::{Ended, Host, finish};
use hanas_tests::line::{PtyBridge, Wire};
use hanas_tests::own;

/// The null model, and the small task's widths.
const MODELS: usize = 1 + 8 + 16;
const SAMPLES: usize = 16;
const RUNS: usize = 2;
/// Rounds that must be safe before something happens.
const SAFE: i64 = 2;
const PATIENCE: Duration = Duration::from_secs(90);

fn profile<'a>(device: &'a str, task: &'a str) -> Vec<&'a str> {
    let command = ["profile", "--device", device, "--task", task, "--batch", "1", "--which", "space"];
    let options = ["--samples", "16", "--runs", "2", "--race", "0", "--allow-noisy", "--quiet"];
    [&command[..], &options].concat()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn assert_counts(host: &Host, least: usize, most: usize) {
    let counts = host.counts();
    assert_eq!(counts.len(), MODELS);
    let odd: Vec<_> = counts.iter().filter(|(_, count)| !(least..=most).contains(*count)).collect();
    assert!(odd.is_empty(), "not {least} to {most} samples of {odd:?}");
    assert_eq!(host.integrity(), "ok");
}

/// The median of a model's runs, in nanoseconds.
fn median(host: &Host, model: &str) -> i64 {
    let mut times: Vec<i64> =
        host.samples().into_iter().filter(|sample| sample.model == model).map(|sample| sample.ns).collect();
    assert!(!times.is_empty(), "{model} was measured");
    times.sort_unstable();
    times[times.len() / 2]
}

/// A board behind a probe, and a host with the small task.
fn on_probe() -> Option<(Board, ProbeBridge, String, Host, String)> {
    let firmware = firmware()?;
    let board = Board::start(STM32F405, Some(&firmware), None);
    let probe = board.probe();
    let url = probe.url();
    let host = host();
    let task = own::task(&host).display().to_string();
    Some((board, probe, url, host, task))
}

#[test]
#[ignore = "needs QEMU and the firmware: make test-boards"]
fn a_chip_behind_a_probe_is_found_profiled_and_its_space_built() {
    let Some((_board, _probe, url, host, task)) = on_probe() else { return };
    let found = host.json(&["device", "identify", &url]);
    assert_eq!((found["chip"].as_str(), found["has_rtt"].as_bool()), (Some(STM32F405.chip), Some(true)));
    let info = host.json(&["device", "info", &url]);
    assert_eq!(
        (info["name"].as_str(), info["runtime"].as_str()),
        (Some("stm32f405"), Some("hanas-chip 0.1.0 f32"))
    );

    let report = host.json(&profile(&url, &task));
    assert_eq!(report["failed"].as_array().unwrap().len(), 0, "{report}");
    assert_counts(&host, SAMPLES, SAMPLES);
    // Twice the channels are about twice the work, and the counter of instructions does not wander.
    let (narrow, wide) = (median(&host, "conv3x3/1@4 8->8"), median(&host, "conv3x3/1@4 8->16"));
    assert!((1.8..2.2).contains(&(wide as f64 / narrow as f64)), "{narrow} and {wide} ns");
    let space = host.run(&["space", "build", "--device", "stm32f405", "--task", &task, "--batch", "1"]);
    assert_eq!(space.code, Some(0), "{}", space.stderr);
}

#[test]
#[ignore = "needs QEMU and the firmware: make test-boards"]
fn a_chip_that_is_reset_in_the_middle_is_loaded_again_and_nothing_is_lost() {
    let Some((_board, probe, url, host, task)) = on_probe() else { return };
    let profiling = host.spawn(&profile(&url, &task));
    until("rounds become safe", || host.rounds() >= SAFE);
    probe.chip(|gdb| {
        gdb.reset()?;
        gdb.run()
    });
    let Ended { code, stderr, .. } = finish(profiling);
    assert_eq!(code, Some(0), "{stderr}");
    assert_counts(&host, SAMPLES, SAMPLES + RUNS);
}

#[test]
#[ignore = "needs QEMU and the firmware: make test-boards"]
fn a_chip_that_hangs_is_reset_and_the_profile_goes_on() {
    let Some((_board, probe, url, host, task)) = on_probe() else { return };
    let profiling = host.spawn(&profile(&url, &task));
    until("rounds become safe", || host.rounds() >= SAFE);
    probe.chip(|gdb| {
        // A branch to itself, in memory that models work in.
        const LOOP: u32 = 0x2000_8000;
        gdb.halt()?;
        gdb.write(LOOP, &[0xfe, 0xe7])?;
        gdb.set_register(15, LOOP)?;
        gdb.run()
    });
    let Ended { code, stderr, .. } = finish(profiling);
    assert_eq!(code, Some(0), "{stderr}");
    assert_counts(&host, SAMPLES, SAMPLES + RUNS);
}

/// Through probe-rs's flash algorithm, which runs on the chip and drives its flash controller.
#[test]
#[ignore = "needs QEMU: make test-boards"]
fn a_flashed_image_is_in_the_chip_and_runs() {
    if !has_emulator() {
        return;
    }
    let host = host();
    let board = Board::start(NRF51822, None, None);
    let probe = board.probe();
    let flash = |name: &str, content: &[u8]| {
        let path = host.path(name);
        fs::write(&path, content).unwrap();
        host.run(&["device", "flash", &probe.url(), &path.display().to_string()])
    };
    let holds = |image: &Image| probe.chip(|chip| chip.read(0, image.bytes().len())) == image.bytes();
    // Into empty flash, then over what is there.
    for image in [Image::new(0x1111_0001, 64), Image::new(0x2222_0002, 3_000)] {
        let flashed = flash("image.elf", &image.elf());
        assert_eq!(flashed.code, Some(0), "{}", flashed.stderr);
        assert!(holds(&image), "the flash holds the image");
        until("the image runs", || probe.chip(|chip| image.has_run(chip)));
    }
    // What is no image, and what lies where the chip has no flash, leave the chip as it is.
    let elsewhere = Image::new(3, 64).at(0x0900_0000).elf();
    for (wrong, says) in [(&b"no image"[..], "ELF"), (&elsewhere, "0x09000000")] {
        let refused = flash("wrong.elf", wrong);
        assert_eq!(refused.code, Some(3), "{}", refused.stderr);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
        assert_eq!(refused.stderr.trim().lines().count(), 1, "{}", refused.stderr);
    }
    assert!(holds(&Image::new(0x2222_0002, 3_000)), "the flash is as it was");
}

/// QEMU has no flash controller for this one: probe-rs's algorithm is loaded and started, and waits for it in vain.
#[test]
#[ignore = "needs QEMU and the firmware: make test-boards"]
fn flash_that_cannot_be_written_is_told_in_one_line() {
    let Some((_board, _probe, url, host, _)) = on_probe() else { return };
    let Some(firmware) = firmware() else { return };
    let failed = host.run(&["device", "flash", &url, &firmware.display().to_string()]);
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    assert!(failed.stderr.contains("flash"), "{}", failed.stderr);
    assert_eq!(failed.stderr.trim().lines().count(), 1, "{}", failed.stderr);
}

#[test]
#[ignore = "needs QEMU and the firmware: make test-boards"]
fn the_same_firmware_is_profiled_over_a_serial_line_of_115200_baud() {
    let Some(firmware) = firmware() else { return };
    let line = PtyBridge::new(Wire::clean(115_200));
    let _board = Board::start(STM32F405, Some(&firmware), Some(&line.agent_side));
    let host = host();
    let task = own::task(&host).display().to_string();
    let url = format!("serial://{}?baud=115200", line.host_side.display());
    for (url, runtime) in
        [(url.clone(), "hanas-chip 0.1.0 f32"), (format!("{url}&elements=int8"), "hanas-chip 0.1.0 int8")]
    {
        let host = self::host();
        assert_eq!(host.json(&["device", "info", &url])["runtime"], runtime);
        let report = host.json(&profile(&url, &task));
        assert_eq!(report["failed"].as_array().unwrap().len(), 0, "{report}");
        assert_counts(&host, SAMPLES, SAMPLES);
    }
}
