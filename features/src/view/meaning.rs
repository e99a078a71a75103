//! What a view means, as text: by it rows of state, stored sums and a model's inputs are known again.

use std::any::Any;
use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as Place;

use super::{FeatureView, Measure, Operand, Slot};
use crate::resolution::Resolution;

impl FeatureView {
    /// What the view means, as text: its state and all that is computed from it.
    #[must_use]
    pub fn definition(&self) -> String {
        let mut text = self.layout();
        for slot in &self.slots {
            let (measure, frame) = (&self.measures[slot.measure], self.frames[slot.frame]);
            let _ = write!(text, "|{} {frame:?}", measure.definition());
        }
        for (output, field) in self.outputs.iter().zip(self.schema.fields()) {
            let _ = write!(text, "|{} = {output}", field.name());
        }
        text
    }

    /// What a column of the answers means, as text, whatever else the view has.
    pub(crate) fn output_meaning(&self, output: usize) -> String {
        let schema = &self.stream.schema;
        let of_event = |index: usize| schema.field(index).name().clone();
        let operand = |operand: &Operand| match operand {
            Operand::Kept(kept) => format!(
                "{}:{}",
                with_columns(&self.operands[*kept], &of_event),
                self.operand_types[*kept]
            ),
            Operand::Literal(value) => format!("{value:?}"),
        };
        let slot = |slot: &Slot| {
            let (measure, frame) = (&self.measures[slot.measure], self.frames[slot.frame]);
            let aggregate = &measure.aggregate;
            format!(
                "{} of {:?} distinct {} ignoring nulls {} filter {:?} half life {:?} over {frame:?}",
                aggregate.fun().name(),
                measure.arguments.iter().map(operand).collect::<Vec<_>>(),
                aggregate.is_distinct(),
                aggregate.ignore_nulls(),
                measure.filter.as_ref().map(operand),
                measure.half_life_us,
            )
        };
        let entities = self.entity.len();
        let column = |index: usize| match index.checked_sub(entities) {
            None => of_event(self.entity[index]),
            Some(index) => self
                .slots
                .get(index)
                .map_or_else(|| "as of".to_owned(), slot),
        };
        let entity: Vec<String> = self.entity.iter().map(|column| of_event(*column)).collect();
        let predicate = self.predicate.as_ref();
        format!(
            "{} of {} {} by {} in {} at {:?} where {:?}",
            with_columns(&self.outputs[output], &column),
            self.stream.name,
            self.stream.topic,
            entity.join(", "),
            of_event(self.stream.time),
            self.step_us(),
            predicate.map(|predicate| with_columns(predicate, &of_event)),
        )
    }

    /// What decides the rows of state: the same text, the same rows.
    pub(crate) fn layout(&self) -> String {
        let stream = &self.stream;
        let mut text = format!(
            "{}|{}|{}|{:?}",
            self.name, stream.name, stream.topic, stream.id
        );
        for column in self.entity.iter().chain([&stream.time]) {
            let _ = write!(text, "|{}", stream.schema.field(*column));
        }
        let _ = write!(
            text,
            "|{:?}",
            self.predicate.as_ref().map(ToString::to_string)
        );
        for (operand, data_type) in self.operands.iter().zip(&self.operand_types) {
            let _ = write!(text, "|{operand}:{data_type}");
        }
        // Rows from before a topic was keyed by its ids have no index by which they can be deleted.
        if stream.is_keyed_by_id() {
            text.push_str("|deletes");
        }
        // Sums that took the place of events are of these aggregates and steps, and of no others.
        if let Some(Resolution { step_us, .. }) = self.resolution {
            let _ = write!(
                text,
                "|resolution {step_us} reach {:?} edges {}",
                self.reach_us(),
                self.edges_us()
            );
            for measure in &self.measures {
                let _ = write!(text, "|{}", measure.definition());
            }
        }
        text
    }
}

impl Measure {
    /// What decides its state, given what is kept of the events.
    pub(super) fn definition(&self) -> String {
        let aggregate = &self.aggregate;
        format!(
            "{} distinct {} ignore nulls {} {:?} {:?}",
            aggregate.fun().name(),
            aggregate.is_distinct(),
            aggregate.ignore_nulls(),
            self.arguments,
            self.filter,
        )
    }
}

/// An expression as text, with other names for its columns than their places.
pub(crate) fn with_columns(expr: &Arc<dyn PhysicalExpr>, name: &dyn Fn(usize) -> String) -> String {
    let named = Arc::clone(expr).transform(|node| {
        let column = (node.as_ref() as &dyn Any).downcast_ref::<Place>();
        Ok(match column.map(Place::index) {
            Some(index) => Transformed::yes(Arc::new(Place::new(&name(index), 0)) as _),
            None => Transformed::no(node),
        })
    });
    // The closure does not fail.
    named.map_or_else(|_| expr.to_string(), |named| named.data.to_string())
}
