//! The command line: what there is, what it says of itself, and who does it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::audit::AuditArgs;
use crate::backfill::BackfillArgs;
use crate::client::Server;
use crate::demo::DemoArgs;
use crate::failure::{Failure, Outcome};
use crate::generate::GenerateArgs;
use crate::produce::ProduceArgs;
use crate::run::RunArgs;
use crate::runtime::runtime;
use crate::settings::Settings;
use crate::simulate::SimulateArgs;
use crate::traces::LogFields;
use crate::training_set::TrainingSetArgs;
use crate::workspace::Workspace;
use crate::{
    audit, backfill, check, client, demo, generate, interrupt, open_files, produce, run, simulate,
    training_set,
};

/// Real-time features and online learning for teams that stop fraud.
///
/// A project is a folder: millrace.toml, sources.sql (streams), features/*.sql (feature views) and inputs.sql (what
/// the model sees). Try `millrace demo` first, then `millrace check --project examples/fraud`.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110, propagate_version = false)]
pub struct Arguments {
    /// The project's folder.
    #[arg(long, global = true, default_value = ".", value_name = "DIR")]
    project: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole system on this machine: generated payments, an embedded broker, features, scores, learning.
    Demo(DemoArgs),
    /// Plan the project and say what is wrong with it: file:line:col, exit code 2.
    Check(CheckArgs),
    /// Run the project: read events, serve look-ups and scores, learn.
    Run(RunArgs),
    /// Update the model once from the labels that came back, then exit.
    Learn(LearnArgs),
    /// Write a labelled stream of card payments: the simulation of the Fraud Detection Handbook.
    Generate(GenerateArgs),
    /// Send a file's rows to a topic, in order, keyed as sources.sql says.
    Produce(ProduceArgs),
    /// Look features up.
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// Score events of a file through the server; prints JSON lines, of which a terminal gets the first.
    Score(ScoreArgs),
    /// What live look-ups would have answered for the rows of a file, each as of its own time.
    ///
    /// Example: millrace training-set --events transactions=tx.parquet labels=labels.parquet --spine rows.parquet
    /// --output training.parquet
    TrainingSet(TrainingSetArgs),
    /// Fill the online store from files, as if their rows had come through Kafka.
    ///
    /// Example: millrace backfill --events transactions=tx.parquet labels=labels.parquet
    Backfill(BackfillArgs),
    /// Compare what was scored with what the same events say, input by input; exit code 1 where they differ.
    ///
    /// Example: millrace audit --events transactions=tx.parquet labels=labels.parquet
    Audit(AuditArgs),
    /// The live loop on a virtual clock: scores every event, learns every label when it became known, and reports.
    ///
    /// Example: millrace simulate --events transactions=tx.parquet labels=labels.parquet --output out
    /// --compare learner.training.members=1 --compare model.every=24h
    Simulate(SimulateArgs),
    /// The versions of the model.
    #[command(subcommand)]
    Models(ModelsCommand),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Print the plan as JSON, or the mistakes: a list with the file, line, column, message and hint of each.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct LearnArgs {
    /// Learn one period, the next that has ended, and exit: what a CronJob calls.
    #[arg(long, required = true)]
    once: bool,
}

#[derive(Debug, Subcommand)]
enum FeaturesCommand {
    /// One look-up, printed as JSON: `millrace features get card_activity card_id=4711`.
    Get {
        /// The feature view.
        view: String,
        /// The entity: each of its columns as KEY=VALUE.
        #[arg(required = true, value_name = "KEY=VALUE")]
        keys: Vec<String>,
        /// Answer as of this time (RFC 3339, or 'YYYY-MM-DD HH:MM:SS' in UTC) rather than now.
        #[arg(long, value_name = "T")]
        as_of: Option<String>,
        #[command(flatten)]
        server: ServerArg,
    },
}

#[derive(Debug, Args)]
struct ScoreArgs {
    /// A file of events: Parquet, CSV or JSON lines by its ending, or - for JSON lines from standard input.
    file: PathBuf,
    /// Print the inputs that the model saw, too.
    #[arg(long)]
    inputs: bool,
    /// Name all events that cannot be scored on standard error, with the reason, rather than the first of them.
    #[arg(long)]
    all_refused: bool,
    #[command(flatten)]
    server: ServerArg,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the versions of the registry.
    List {
        /// Print JSON: all versions, oldest first.
        #[arg(long)]
        json: bool,
        /// List the newest N versions, and those that have traffic; by default 20, with --json all.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Print all that is known of a version, and what became of it, as JSON.
    Show {
        /// The version.
        #[arg(value_parser = parse_version)]
        version: u64,
    },
    /// Give a version all of the traffic.
    Promote {
        /// The version.
        #[arg(value_parser = parse_version)]
        version: u64,
    },
    /// Give the traffic back to the version that had it before.
    Rollback {
        /// To this version rather than to the last.
        #[arg(long, value_name = "VERSION", value_parser = parse_version)]
        to: Option<u64>,
    },
    /// Let a version answer for so many of a hundred entities, always the same ones; 0 ends that.
    Traffic {
        /// The version.
        #[arg(value_parser = parse_version)]
        version: u64,
        /// Its share, 0 to 99.
        percent: u8,
    },
    /// Write a version as an ONNX file: from the inputs to the probability of fraud, for any program that runs ONNX.
    Export {
        /// The version; by default the one that has the traffic.
        #[arg(value_parser = parse_version)]
        version: Option<u64>,
        /// The file.
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
    },
}

#[derive(Debug, Args)]
struct ServerArg {
    /// Address of the server, with https:// where it has [server.tls]; by default the project's server.listen.
    #[arg(long, value_name = "HOST:PORT")]
    server: Option<String>,
    /// File of the authority, PEM, that the server's certificate is of; else MILLRACE_CA, else those that the machine
    /// trusts.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File of the certificate, PEM, for a server that asks for one; else MILLRACE_CERTIFICATE.
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// File of its private key, PEM; else MILLRACE_KEY.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

fn parse_version(text: &str) -> Result<u64, String> {
    let number = text.parse();
    number.map_err(|_| format!("'{text}' is no number: `millrace models list` has the versions"))
}

impl ServerArg {
    /// The server asked for, else the project's, else the one at the default address.
    fn find(self, project: &Path) -> Outcome<Server> {
        // Where no project is named, there need be none.
        let is_named = project != Path::new(".");
        let is_asked = self.server.is_none() && project.join("millrace.toml").exists();
        let settings = match is_named || is_asked {
            true => Some(Settings::read(project)?.server),
            false => None,
        };
        let address = match self.server {
            Some(address) => address,
            None => settings.unwrap_or_default().url(),
        };
        let is_given = self.ca.is_some() || self.certificate.is_some() || self.key.is_some();
        if is_given && !address.starts_with("https://") {
            let host = address.trim_start_matches("http://");
            return Err(Failure::input(
                "--ca, --certificate and --key are for a server that speaks TLS",
            )
            .hint(format!("--server https://{host} is one")));
        }
        let server = Server {
            address,
            ca: self.ca,
            certificate: self.certificate,
            key: self.key,
        };
        Ok(server.or_from_env())
    }
}

/// Runs a command.
///
/// # Errors
/// Whatever the command ends with.
pub fn execute(arguments: Arguments) -> Outcome<()> {
    let project = arguments.project.as_path();
    init_logging(match arguments.command {
        Command::Demo(_) => "off",
        Command::Run(_) => "info,nisshi=off,rama=off,object_store=warn",
        // What is refused stands in the report.
        Command::Simulate(_) => "error",
        _ => "warn",
    });
    open_files::raise_limit();
    if matches!(
        arguments.command,
        Command::Produce(_) | Command::TrainingSet(_) | Command::Backfill(_) | Command::Simulate(_)
    ) {
        interrupt::listen()?;
    }
    match arguments.command {
        Command::Demo(args) => demo::demo(args),
        Command::Check(args) => check::check(project, args.json),
        Command::Run(args) => run::run(Workspace::open(project)?, args),
        Command::Learn(_) => run::learn_once(Workspace::open(project)?),
        Command::Generate(args) => generate::generate(args),
        Command::Produce(args) => produce::produce(&Workspace::open(project)?, &args),
        Command::Features(FeaturesCommand::Get {
            view,
            keys,
            as_of,
            server,
        }) => {
            let server = server.find(project)?;
            runtime()?.block_on(client::features_get(
                &server,
                &view,
                &keys,
                as_of.as_deref(),
            ))
        }
        Command::Score(args) => {
            let server = args.server.find(project)?;
            runtime()?.block_on(client::score(
                &server,
                &args.file,
                project,
                args.inputs,
                args.all_refused,
            ))
        }
        Command::TrainingSet(args) => training_set::training_set(&Workspace::open(project)?, &args),
        Command::Backfill(args) => backfill::backfill(&Arc::new(Workspace::open(project)?), &args),
        Command::Audit(args) => audit::audit(&Workspace::open(project)?, &args),
        Command::Simulate(args) => simulate::simulate(project, &args),
        Command::Models(command) => {
            let workspace = Workspace::open(project)?;
            let registry = workspace.registry()?;
            let plan = workspace.model.as_ref();
            match command {
                ModelsCommand::List { json, limit } => {
                    client::models_list(&registry, json, limit, || client::why_no_model(&workspace))
                }
                ModelsCommand::Show { version } => client::models_show(&registry, version),
                ModelsCommand::Promote { version } => {
                    client::models_promote(&registry, plan, version)
                }
                ModelsCommand::Rollback { to } => client::models_rollback(&registry, plan, to),
                ModelsCommand::Traffic { version, percent } => {
                    client::models_traffic(&registry, plan, version, percent)
                }
                ModelsCommand::Export { version, output } => {
                    client::models_export(&registry, version, &output)
                }
            }
        }
    }
}

fn init_logging(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A test harness may have set a subscriber already.
    let _ = tracing_subscriber::fmt()
        .fmt_fields(LogFields::default())
        .with_env_filter(without_exporter(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// The exporter of traces says that it fails each time that it does; `traces/export.rs` says it once. What a person
/// has set for it stays.
fn without_exporter(filter: EnvFilter) -> EnvFilter {
    let off = "opentelemetry=off".parse::<Directive>().ok();
    match off.filter(|_| !filter.to_string().contains("opentelemetry")) {
        Some(off) => filter.add_directive(off),
        None => filter,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_value_that_is_wrong_is_answered_with_one_that_works() {
        for (command, expected) in [
            ("models show abc", "`millrace models list` has the versions"),
            ("models export --output x v2", "'v2' is no number"),
            ("models rollback --to last", "'last' is no number"),
            ("generate --output x --start 2018-13-01", "write 2018-04-01"),
            (
                "generate --output x --label-delay 7",
                "write 90s, 15m, 1h or 7d",
            ),
        ] {
            let words = ["millrace"].into_iter().chain(command.split(' '));
            let said = Arguments::try_parse_from(words).unwrap_err().to_string();
            assert!(said.contains(expected), "{command}: {said}");
        }
        let none = "millrace generate --output x --label-delay 0s".split(' ');
        assert!(Arguments::try_parse_from(none).is_ok());
    }

    #[test]
    fn a_project_that_is_named_must_be_there() {
        let server = |server: Option<&str>| ServerArg {
            server: server.map(str::to_owned),
            ca: None,
            certificate: None,
            key: None,
        };
        for given in [None, Some("127.0.0.1:7077")] {
            let failure = server(given).find(Path::new("/nowhere")).unwrap_err();
            assert!(
                failure
                    .message
                    .contains("/nowhere is not a Millrace project"),
                "{failure}"
            );
        }
        let folder = tempfile::tempdir().unwrap();
        let listen = "[server]\nlisten = '127.0.0.1:7999'";
        std::fs::write(folder.path().join("millrace.toml"), listen).unwrap();
        assert_eq!(
            server(None).find(folder.path()).unwrap().address,
            "127.0.0.1:7999"
        );
    }
}
