//! A project's folder, read and planned: settings, streams, feature views and the model's inputs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::DataType;
use millrace_feature_store::{RocksStore, StoreIdentity};
use millrace_features::{InputView, Project, SqlFile, Stream};
use millrace_learner::{InputKind, LearnerError, Manifest, Registry};

use crate::evolve::check_project;
use crate::failure::{Failure, Outcome, with_causes};
use crate::priority::Priority;
use crate::registry::Place;
use crate::settings::{ModelSettings, SETTINGS_FILE, Settings};

/// A planned project with its settings.
#[derive(Debug)]
pub struct Workspace {
    /// The project's folder.
    pub folder: PathBuf,
    /// `millrace.toml`.
    pub settings: Settings,
    /// The text of its SQL.
    pub sql: ProjectSql,
    /// The planned SQL.
    pub project: Project,
    /// The model's plan, where the project has one.
    pub model: Option<ModelPlan>,
}

/// The text of a project's SQL.
#[derive(Debug, Clone)]
pub struct ProjectSql {
    /// `sources.sql`
    pub sources: SqlFile,
    /// The files in `features/`, by name.
    pub views: Vec<SqlFile>,
    /// `inputs.sql`, where there is one.
    pub inputs: Option<SqlFile>,
}

/// What the model sees, and where its labels come from.
#[derive(Debug, Clone)]
pub struct ModelPlan {
    /// `[model]`
    pub settings: ModelSettings,
    /// The model's inputs.
    pub inputs: Arc<InputView>,
    /// The stream of labels.
    pub labels: Arc<Stream>,
    /// The label's column in it.
    pub label_column: usize,
    /// The column of the labels that names the scored event.
    pub label_id: usize,
    /// The column of the scored stream that names an event.
    pub event_id: usize,
}

impl Workspace {
    /// Reads and plans the project in `folder`.
    ///
    /// # Errors
    /// Every mistake that was found, as [`Failure`] of kind input.
    pub fn open(folder: &Path) -> Outcome<Self> {
        Self::open_with(folder, &[])
    }

    /// As [`open`](Self::open), with settings in place of `millrace.toml`'s, each `section.name=value`.
    ///
    /// # Errors
    /// As [`open`](Self::open); a setting that does not exist or cannot have the value.
    pub fn open_with(folder: &Path, changes: &[String]) -> Outcome<Self> {
        let settings = Settings::read_with(folder, changes)?;
        let sources = read_sql(folder, "sources.sql")?;
        let views = read_views(folder)?;
        let inputs = folder
            .join("inputs.sql")
            .exists()
            .then(|| read_sql(folder, "inputs.sql"));
        let sql = ProjectSql {
            sources,
            views,
            inputs: inputs.transpose()?,
        };
        Self::plan(folder, settings, sql).map_err(|failure| match changes {
            [] => Settings::placed(folder, failure),
            // The setting may be one of them.
            _ => failure,
        })
    }

    /// Plans a project.
    ///
    /// # Errors
    /// Every mistake that was found, as [`Failure`] of kind input.
    pub fn plan(folder: &Path, settings: Settings, sql: ProjectSql) -> Outcome<Self> {
        let project = Project::plan(&sql.sources, &sql.views, sql.inputs.as_ref())?;
        let model = settings
            .model
            .as_ref()
            .map(|model| match &sql.inputs {
                Some(_) => ModelPlan::new(model, &project),
                None => Err(no_inputs(model)),
            })
            .transpose()?;
        Ok(Self {
            folder: folder.to_owned(),
            settings,
            sql,
            project,
            model,
        })
    }

    /// A path of the settings, relative to the project's folder.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Whether the model that has the traffic in a registry was trained on the project's inputs.
    ///
    /// # Errors
    /// Of kind input: a project without a model, a model of other inputs. A registry that cannot be read.
    pub fn check_champion(&self, registry: &Registry) -> Outcome<()> {
        let plan = self.model()?;
        match registry.aliases()?.champion {
            Some(champion) => plan.check_inputs(&registry.manifest(champion)?),
            None => Ok(()),
        }
    }

    /// Where the project's registry of models lies.
    ///
    /// # Errors
    /// The project has no model.
    pub fn registry(&self) -> Outcome<Place> {
        Ok(self.model()?.settings.registry.in_folder(&self.folder))
    }

    /// Opens the project's store.
    ///
    /// # Errors
    /// A store of another project, in use, damaged.
    pub fn open_store(&self) -> Outcome<RocksStore> {
        let settings = &self.settings.store;
        let path = self.path(&settings.path);
        // The threads that flush and compact have the priority of the one that opens.
        let open = || {
            Priority::Events.take();
            RocksStore::open_with(&path, &self.identity(), &settings.rocksdb)
        };
        let store = std::thread::scope(|scope| scope.spawn(open).join());
        let store = store.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        check_project(&store, self)?;
        Ok(store)
    }

    /// Opens a store of the project's state in another folder.
    ///
    /// # Errors
    /// As [`open_store`](Self::open_store).
    pub fn open_store_at(&self, path: &Path) -> Outcome<RocksStore> {
        let settings = &self.settings.store;
        Ok(RocksStore::open_with(
            path,
            &self.identity(),
            &settings.rocksdb,
        )?)
    }

    /// Opens the project's store as it was last made durable, beside a process that writes to it.
    ///
    /// # Errors
    /// A store of another project, damaged.
    pub fn open_store_to_read(&self) -> Outcome<RocksStore> {
        let settings = &self.settings.store;
        let path = self.path(&settings.path);
        let store = RocksStore::open_read_only(&path, &self.identity(), &settings.rocksdb)?;
        check_project(&store, self)?;
        Ok(store)
    }

    fn identity(&self) -> StoreIdentity {
        StoreIdentity {
            project_fingerprint: self.fingerprint(),
            description: self.folder.display().to_string(),
        }
    }

    /// Names the layout of the state, as a store of format 1 knows its project.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        millrace_learner::inputs_hash(&[self.project.state_layout()])
    }

    /// The model's plan.
    ///
    /// # Errors
    /// The project has none.
    pub fn model(&self) -> Outcome<&ModelPlan> {
        self.model.as_ref().ok_or_else(|| {
            Failure::input("the project has no model: millrace.toml has no section [model]").hint(
                "[model]\n        inputs = \"fraud_inputs\"\n        label = \"labels.is_fraud\"",
            )
        })
    }
}

impl ModelPlan {
    fn new(settings: &ModelSettings, project: &Project) -> Outcome<Self> {
        let inputs = project.input_view(&settings.inputs).map_err(|hint| {
            bad_model(
                INPUTS,
                format!(
                    "model.inputs: there is no view '{}' in inputs.sql",
                    settings.inputs
                ),
            )
            .hint(hint)
        })?;
        let (stream, column) = settings.label.split_once('.').ok_or_else(|| {
            bad_model(
                LABEL,
                format!("model.label: '{}' is not stream.column", settings.label),
            )
            .hint("label = \"labels.is_fraud\"")
        })?;
        let labels = project.stream(stream).map_err(|hint| {
            bad_model(LABEL, format!("model.label: there is no stream '{stream}'")).hint(hint)
        })?;
        let label_column = label_column(labels, column)?;
        let event_id = inputs.stream.id.ok_or_else(|| {
            let stream = &inputs.stream.name;
            bad_model(
                INPUTS,
                format!("stream '{stream}' names no id, so no label can be joined to its scores"),
            )
            .hint("add 'id' 'tx_id' to its OPTIONS in sources.sql")
        })?;
        let id_name = inputs.stream.schema.field(event_id).name();
        let label_id = labels.schema.index_of(id_name).map_err(|_| {
            bad_model(
                LABEL,
                format!("stream '{stream}' has no column '{id_name}'"),
            )
            .hint(format!(
                "a label names the scored event by its id, '{id_name}'"
            ))
        })?;
        check_same_type(inputs, event_id, labels, label_id)?;
        Ok(Self {
            settings: settings.clone(),
            inputs: Arc::clone(inputs),
            labels: Arc::clone(labels),
            label_column,
            label_id,
            event_id,
        })
    }

    /// Identifies what the inputs mean: a model that was trained on other inputs must not serve.
    #[must_use]
    pub fn inputs_hash(&self) -> String {
        millrace_learner::inputs_hash(&[self.inputs.definition()])
    }

    /// Tells examples of one meaning of the inputs from those of another.
    #[must_use]
    pub fn inputs_tag(&self) -> u32 {
        u64::from_str_radix(&self.inputs_hash(), 16).unwrap_or_default() as u32
    }

    /// For each input, a fingerprint of what it means: which of them a model has otherwise.
    #[must_use]
    pub fn input_meanings(&self) -> Vec<String> {
        let meanings = self.inputs.meanings().into_iter();
        meanings
            .map(|meaning| millrace_learner::inputs_hash(&[meaning]))
            .collect()
    }

    /// Whether a model was trained on these inputs.
    ///
    /// # Errors
    /// Of kind input: it was trained on others, which the message names.
    pub fn check_inputs(&self, manifest: &Manifest) -> Outcome<()> {
        manifest
            .check_inputs(
                &self.input_names(),
                &self.inputs_hash(),
                &self.input_meanings(),
            )
            .map_err(|error| other_inputs(&error))
    }

    /// What each input is to the learner: a text is a category.
    #[must_use]
    pub fn input_kinds(&self) -> Vec<InputKind> {
        let kind = |is_text: bool| match is_text {
            true => InputKind::Category,
            false => InputKind::Number,
        };
        self.inputs.are_texts().map(kind).collect()
    }

    /// Names of the inputs, in order.
    #[must_use]
    pub fn input_names(&self) -> Vec<String> {
        self.inputs.names().map(str::to_owned).collect()
    }
}

fn other_inputs(error: &LearnerError) -> Failure {
    let mut message = with_causes(error);
    if let LearnerError::InputsDiffer(differ) = error {
        let kinds = [
            ("new", &differ.added),
            ("gone", &differ.removed),
            (
                "changed (another window, aggregate or expression)",
                &differ.changed,
            ),
        ];
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            message = format!("{message}; {kind}: {}", names.join(", "));
        }
    }
    Failure::input(message).hint(
        "go back to the inputs that it was trained on, or give model.registry a new folder to start a model afresh: \
         it answers once enough labels have come for events that were scored with the new inputs",
    )
}

/// A mistake in `[model]`, of a setting by its whole name.
fn bad_model(setting: &str, message: impl Into<String>) -> Failure {
    Failure::in_file(SETTINGS_FILE, None, message).of_setting(setting)
}

fn no_inputs(model: &ModelSettings) -> Failure {
    let name = &model.inputs;
    bad_model(
        INPUTS,
        format!("model.inputs: there is no inputs.sql, where view '{name}' would stand"),
    )
    .hint(format!(
        "it says what the model sees: CREATE VIEW {name} AS SELECT t.amount, a.n FROM transactions t JOIN \
         card_activity a USING (card_id)"
    ))
}

const INPUTS: &str = "model.inputs";
const LABEL: &str = "model.label";

fn label_column(labels: &Stream, column: &str) -> Outcome<usize> {
    let index = labels.schema.index_of(column).map_err(|_| {
        let names: Vec<&str> = labels
            .schema
            .fields()
            .iter()
            .map(|f| f.name().as_str())
            .collect();
        bad_model(
            LABEL,
            format!(
                "model.label: stream '{}' has no column '{column}'",
                labels.name
            ),
        )
        .hint(format!("its columns: {}", names.join(", ")))
    })?;
    let data_type = labels.schema.field(index).data_type();
    if data_type == &DataType::Boolean || data_type.is_numeric() {
        return Ok(index);
    }
    Err(bad_model(
        LABEL,
        format!("model.label: '{column}' is of type {data_type}"),
    )
    .hint("a label is BOOLEAN, or a number that is 1 for fraud and 0 otherwise"))
}

fn check_same_type(
    inputs: &InputView,
    event_id: usize,
    labels: &Stream,
    label_id: usize,
) -> Outcome<()> {
    let event = inputs.stream.schema.field(event_id);
    let label = labels.schema.field(label_id);
    if event.data_type() == label.data_type() {
        return Ok(());
    }
    Err(bad_model(
        LABEL,
        format!(
            "'{}' is {} in stream '{}' and {} in stream '{}'",
            event.name(),
            event.data_type(),
            inputs.stream.name,
            label.data_type(),
            labels.name
        ),
    )
    .hint("declare both of the same type"))
}

fn read_sql(folder: &Path, name: &str) -> Outcome<SqlFile> {
    let path = folder.join(name);
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::input(format!("{}: {e}", path.display()))
            .hint("a project has millrace.toml, sources.sql, features/*.sql and inputs.sql")
    })?;
    Ok(SqlFile {
        path: name.to_owned(),
        text,
    })
}

fn read_views(folder: &Path) -> Outcome<Vec<SqlFile>> {
    let entries = match std::fs::read_dir(folder.join("features")) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(Failure::input(format!(
                "{}/features: {e}",
                folder.display()
            )));
        }
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".sql"))
        .collect();
    names.sort();
    names
        .iter()
        .map(|name| read_sql(folder, &format!("features/{name}")))
        .collect()
}
