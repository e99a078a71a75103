//! What a feature means: the SQL of a project, planned once with DataFusion, and the only definition of a
//! window that there is. Live look-up, scoring, back-fill and training set all call it.
//!
//! The crate is a pure function from events to answers. It opens no socket and no file, reads no clock and
//! draws no random number: the text of the project, the events, the state and the time asked for are passed
//! in. It knows Arrow and DataFusion; Kafka lives in `millrace-ingest`, RocksDB in `millrace-feature-store`.
//!
//! - [`Project`] plans `sources.sql`, `features/*.sql` and `inputs.sql`.
//! - [`FeatureView::state_rows`] turns a batch of events into rows of state.
//! - [`FeatureView::fold`] replaces settled rows of a view with a resolution by their sums.
//! - [`FeatureView::answer`] reads those rows as of a time.
//! - [`EventTable`] answers for many events at once, in memory: training sets and back-tests.
//! - [`InputView::evaluate`] joins an event with the answers of its views, and [`InputView::matrix`] makes of that what
//!   a model sees.

mod answer;
mod call;
mod category;
mod clauses;
mod comparisons;
mod conditions;
mod decay;
mod distinct;
mod events;
mod fold;
mod frame;
mod history;
mod inputs;
mod kernel;
mod key;
mod lengths;
mod names;
#[cfg(test)]
mod oracle_tests;
mod packed;
mod parts;
mod places;
mod plan;
mod problem;
mod project;
mod read_plan;
mod resolution;
#[cfg(test)]
mod resolution_tests;
mod rows;
mod slips;
mod slot_column;
mod state;
mod stream;
mod syntax;
mod table;
mod tile;
mod values;
mod view;
mod walk;
mod windows;
mod words;

pub use answer::Answer;
pub use category::category_code;
pub use fold::Total;
pub use frame::Frame;
pub use inputs::InputView;
pub use packed::{pack_keys, pack_rows, unpack_rows};
pub use problem::{Position, Problem};
pub use project::{Project, SqlFile};
pub use resolution::Resolution;
pub use state::{BestRead, Made, MemoryState, StateError, StateReader, StateRow, StateWriter};
pub use stream::{DeletedId, Stream};
pub use table::EventTable;
pub use tile::{Ladder, Span, Tile, tile_width_us};
pub use values::{Validity, Values};
pub use view::{FeatureView, Origin};

/// Errors of evaluating a plan: on a planned project these are bugs or damaged state, never a user's mistake.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// DataFusion refused to evaluate an expression (an overflow or a division by zero in SQL arithmetic, for
    /// instance).
    #[error("{context}: {source}")]
    Evaluate {
        /// What was being evaluated.
        context: String,
        /// DataFusion's own words.
        source: Box<datafusion::error::DataFusionError>,
    },
    /// The store could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// A row of state does not have the layout that its view writes.
    #[error("a row of state of view '{view}' is damaged: {detail}")]
    Damaged {
        /// Name of the feature view.
        view: String,
        /// What does not fit.
        detail: String,
    },
    /// The caller passed columns that the plan does not expect.
    #[error("{0}")]
    Arguments(String),
}

impl FeatureError {
    pub(crate) fn evaluate(
        context: impl Into<String>,
    ) -> impl FnOnce(datafusion::error::DataFusionError) -> Self {
        let context = context.into();
        move |source| Self::Evaluate {
            context,
            source: Box::new(source),
        }
    }
}
