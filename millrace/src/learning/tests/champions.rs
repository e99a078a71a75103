//! Another model takes the traffic than the one that the loop knew.

use super::*;

/// A model of amounts that are tiny, so that all others are beyond its bins.
fn of_tiny_amounts(process: &Process) -> Checkpoint {
    let mut examples = Examples::new(1);
    for number in 0..300_u64 {
        let amount = (number * 37 % 100) as f32 / 1e3;
        examples.push(&[amount], is_fraud(number), 1.0).unwrap();
    }
    let training = process.learning.settings().training.clone();
    let nothing = Examples::new(1);
    let update = update(&training, Device::Cpu, None, &examples, &nothing, 7);
    update.unwrap().checkpoint
}

#[test]
fn what_is_usual_is_counted_in_the_bins_of_what_serves() {
    let mut machine = Machine::new();
    let mut process = machine.start();
    // As many periods as it takes to know what is usual.
    for hour in 0..52 {
        machine.hour(hour, 100, process.tag());
        process.learn(hour);
    }
    let checkpoint = of_tiny_amounts(&process);
    let learning = &mut process.learning;
    let manifest = learning.champion.as_ref().unwrap().manifest.clone();
    let published = learning.registry.publish(manifest.clone(), &checkpoint);
    let manifest = Manifest {
        version: published.unwrap(),
        ..manifest
    };
    let held = Held::new(manifest, checkpoint);
    learning.canary = None;
    learning.promote(held, 52 * HOUR, None, None).unwrap();

    machine.hour(52, 100, process.tag());
    assert_eq!(learned(&process.learn(52)).rows, 100);
    let learning = &process.learning;
    let encoder = learning.champion.as_ref().unwrap().checkpoint.encoder();
    assert!(learning.checks.as_ref().unwrap().is_in_bins_of(encoder));
}
