//! PyTorch in a process beside: `benches/learner/torch_peer.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use millrace_learner::{Checkpoint, Device, Examples, LearnerSettings, Model};
use serde_json::{Value, json};

use crate::Result;

/// How far its probabilities of the same network may be from ours.
const TOLERANCE: f64 = 1e-5;

/// A PyTorch that has the same network and the same rows.
pub(crate) struct Peer {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    said: Value,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Peer {
    pub(crate) fn start(
        settings: &LearnerSettings,
        start: &Checkpoint,
        rows: &Examples,
        threads: usize,
        device: Device,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        write(folder.path(), settings, start, rows)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("learner/torch_peer.py");
        let mut process = Command::new("python3")
            .arg(script)
            .arg(folder.path())
            .arg(threads.to_string())
            .arg(match device {
                Device::Cuda(_) => "cuda",
                Device::Cpu | Device::Auto => "cpu",
            })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let commands = process.stdin.take().ok_or("no input")?;
        let answers = BufReader::new(process.stdout.take().ok_or("no output")?);
        let mut peer = Self {
            process,
            commands,
            answers,
            said: Value::Null,
        };
        peer.said = peer.answer()?;
        peer.check(start, rows)?;
        Ok(peer)
    }

    /// That it is the same network.
    fn check(&self, start: &Checkpoint, rows: &Examples) -> Result<()> {
        let theirs = self.said["probabilities"]
            .as_array()
            .ok_or("no probabilities")?;
        let ours = Model::new(start).score(&rows.inputs()[..theirs.len() * rows.width()])?;
        let differ = |(ours, theirs): (&f32, &Value)| {
            let theirs = theirs.as_f64().unwrap_or(f64::NAN);
            let difference = (f64::from(*ours) - theirs).abs();
            difference.is_nan() || difference >= TOLERANCE
        };
        match ours.iter().zip(theirs).any(differ) {
            true => Err("PyTorch's network is another one".into()),
            false => Ok(()),
        }
    }

    pub(crate) fn version(&self) -> &Value {
        &self.said["torch"]
    }

    /// Seconds that some passes took; none where this mode does not run here.
    pub(crate) fn train(&mut self, mode: &str, passes: usize) -> Result<Option<f64>> {
        writeln!(self.commands, "{mode} {passes}")?;
        let answer = self.answer()?;
        if let Some(reason) = answer["failed"].as_str() {
            eprintln!("PyTorch, {mode}: {reason}");
        }
        Ok(answer["seconds"].as_f64())
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("PyTorch's process ended".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// What `torch_peer.py` reads.
fn write(
    folder: &Path,
    settings: &LearnerSettings,
    start: &Checkpoint,
    rows: &Examples,
) -> Result<()> {
    let file = |name: &str, numbers: &[f32]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        std::fs::write(folder.join(format!("{name}.f32")), bytes)
    };
    let width = start.encoder().encoded_width();
    let mut codes = vec![0.0; rows.len() * width];
    for (row, codes) in codes.chunks_exact_mut(width).enumerate() {
        start.encoder().encode(rows.row(row), codes);
    }
    file("codes", &codes)?;
    file("labels", rows.labels())?;
    file("weights", rows.weights())?;
    let mut layers = Vec::new();
    for (index, layer) in start.layers().iter().enumerate() {
        let parts = [
            ("weight", &layer.weight),
            ("scale_in", &layer.scale_in),
            ("scale_out", &layer.scale_out),
            ("bias", &layer.bias),
        ];
        for (part, numbers) in parts {
            file(&format!("layer{index}.{part}"), numbers)?;
        }
        layers.push(json!({
            "inputs": layer.inputs,
            "outputs": layer.outputs,
            "members": layer.members,
            "groups": layer.weight.len() / (layer.inputs * layer.outputs),
            "scales": !layer.scale_in.is_empty(),
        }));
    }
    let network = json!({
        "rows": rows.len(),
        "batch_rows": settings.batch_rows,
        "learning_rate": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "layers": layers,
    });
    std::fs::write(folder.join("network.json"), network.to_string())?;
    Ok(())
}
