//! Exponentially decayed counts and sums: an event loses half its weight in each half-life.
//!
//! As of t, `decayed_sum(x, INTERVAL 'H')` is Σ x · 2^(−(t − event_time) / H) over the frame's events, and
//! `decayed_count(INTERVAL 'H')` the same with x = 1. The decay goes on at read time: a quiet card's sum falls
//! with no event. See Cormode et al., "Forward Decay" (ICDE 2009); the state is kept relative to its newest event,
//! so that no power grows without bound.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, Float64Type, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, Signature, Volatility,
};

use crate::frame::microseconds;
use crate::problem::{Checked, Complaint};

const SUM: &str = "decayed_sum";
const COUNT: &str = "decayed_count";

/// The functions, for a planner.
pub(crate) fn functions() -> [AggregateUDF; 2] {
    [SUM, COUNT].map(|name| AggregateUDF::new_from_impl(Decayed::new(name)))
}

/// The half-life of a decayed aggregate; none of another one.
pub(crate) fn half_life_us(function: &AggregateUDF, arguments: &[Expr]) -> Checked<Option<i64>> {
    let place = match function.name() {
        SUM => 1,
        COUNT => 0,
        _ => return Ok(None),
    };
    let half_life = match arguments.get(place) {
        Some(Expr::Literal(value, _)) => microseconds(value)?,
        _ => 0,
    };
    if half_life > 0 && arguments.len() == place + 1 {
        return Ok(Some(half_life));
    }
    Err(
        Complaint::new(format!("{}() needs a fixed half-life", function.name())).hint(
            match function.name() {
                SUM => "decayed_sum(amount, INTERVAL '1 hour')",
                _ => "decayed_count(INTERVAL '1 hour')",
            },
        ),
    )
}

/// What a state is worth as of `t`: a sum of no events is null, a count 0.
pub(crate) fn decayed_to(t: i64, half_life_us: i64, state: &[ScalarValue]) -> Result<ScalarValue> {
    match state {
        [
            ScalarValue::Float64(Some(sum)),
            ScalarValue::TimestampMicrosecond(Some(newest), _),
        ] => Ok(ScalarValue::Float64(Some(
            sum * weight(t, *newest, half_life_us),
        ))),
        [empty, ScalarValue::TimestampMicrosecond(None, _)] => Ok(empty.clone()),
        _ => Err(DataFusionError::Internal(
            "a decayed state is a sum and a time".to_owned(),
        )),
    }
}

fn weight(t: i64, event_time: i64, half_life_us: i64) -> f64 {
    // Exact below 2^53 µs, which is 285 years.
    let age = t.saturating_sub(event_time) as f64;
    (-age / half_life_us as f64).exp2()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Decayed {
    name: &'static str,
    signature: Signature,
}

impl Decayed {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            signature: Signature::variadic_any(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for Decayed {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments.first() {
            Some(first) if self.name == SUM && !first.is_numeric() => {
                plan_err!(
                    "decayed_sum() takes a number and an interval, as in decayed_sum(amount, INTERVAL '1 hour')"
                )
            }
            _ => Ok(DataType::Float64),
        }
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let half_life = arguments.exprs.iter().find_map(|expr| {
            let literal = (expr.as_ref() as &dyn std::any::Any)
                .downcast_ref::<datafusion::physical_expr::expressions::Literal>()?;
            microseconds(literal.value()).ok()
        });
        let Some(half_life_us) = half_life else {
            return plan_err!("{}() needs a half-life", self.name);
        };
        let counts = self.name == COUNT;
        Ok(Box::new(DecayedSum {
            half_life_us,
            counts,
            sum: counts.then_some(0.0),
            newest: None,
        }))
    }

    fn state_fields(&self, _: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        Ok(vec![
            Arc::new(Field::new("sum", DataType::Float64, true)),
            Arc::new(Field::new("newest", time, true)),
        ])
    }
}

/// A sum as of the newest event in it.
#[derive(Debug)]
struct DecayedSum {
    half_life_us: i64,
    counts: bool,
    sum: Option<f64>,
    newest: Option<i64>,
}

impl DecayedSum {
    fn add(&mut self, value: f64, time: i64) {
        let newest = self.newest.map_or(time, |newest| newest.max(time));
        let old = match self.newest {
            Some(old) => self.sum.unwrap_or_default() * weight(newest, old, self.half_life_us),
            None => 0.0,
        };
        self.sum = Some(old + value * weight(newest, time, self.half_life_us));
        self.newest = Some(newest);
    }
}

impl Accumulator for DecayedSum {
    /// `values`: what is summed, unless events are counted; the half-life; the event times.
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (Some(first), Some(times)) = (values.first(), values.last()) else {
            return Ok(());
        };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let numbers = match self.counts {
            true => None,
            false => Some(cast(first, &DataType::Float64)?),
        };
        let numbers = numbers.as_ref().map(|n| n.as_primitive::<Float64Type>());
        for row in 0..times.len() {
            match numbers {
                Some(numbers) if numbers.is_null(row) => {}
                Some(numbers) => self.add(numbers.value(row), times.value(row)),
                None => self.add(1.0, times.value(row)),
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [sums, newest] = states else {
            return Err(DataFusionError::Internal(
                "a decayed state is a sum and a time".to_owned(),
            ));
        };
        let sums = sums.as_primitive::<Float64Type>();
        let newest = newest.as_primitive::<TimestampMicrosecondType>();
        for row in (0..sums.len()).filter(|row| newest.is_valid(*row)) {
            self.add(sums.value(row), newest.value(row));
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![
            ScalarValue::Float64(self.sum),
            ScalarValue::TimestampMicrosecond(self.newest, None),
        ])
    }

    /// As of the newest event: a look-up decays on from there.
    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.sum))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
