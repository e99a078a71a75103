//! Texts beside numbers and times.
//!
//! Where a text is compared with a number, a time or a date, or a function takes both, DataFusion casts the text, and the
//! cast fails on every text that is none: its event would leave the view without a word. What stands in quotes in the
//! query itself is cast when it is planned, and refused then where it is none. Arithmetic with texts DataFusion refuses
//! itself, and where a number becomes a text (`||`, the branches of CASE) nothing is lost.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator};

use crate::problem::{Checked, Complaint, columns_span};
use crate::walk;
use crate::words;

/// Refuses an expression, as written, that would cast a text to a number or a time.
pub(crate) fn check(expr: &Expr, schema: &DFSchema) -> Checked<()> {
    match expr {
        Expr::BinaryExpr(binary) if compares(binary.op) => {
            let sides = [binary.left.as_ref(), binary.right.as_ref()];
            check_compared(&binary.op.to_string(), &sides, schema)
        }
        Expr::Between(between) => {
            let all = [&between.expr, &between.low, &between.high];
            check_compared("BETWEEN", &all.map(|expr| expr.as_ref()), schema)
        }
        Expr::InList(inside) => {
            let all: Vec<&Expr> = std::iter::once(inside.expr.as_ref())
                .chain(&inside.list)
                .collect();
            check_compared("IN", &all, schema)
        }
        Expr::Case(case) => {
            // Without a first expression WHEN has conditions.
            let Some(first) = &case.expr else {
                return Ok(());
            };
            let whens = case.when_then_expr.iter().map(|(when, _)| when.as_ref());
            let all: Vec<&Expr> = std::iter::once(first.as_ref()).chain(whens).collect();
            check_compared("CASE", &all, schema)
        }
        Expr::ScalarFunction(call) => check_call(call, schema),
        _ => Ok(()),
    }
}

fn compares(operator: Operator) -> bool {
    matches!(
        operator,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

/// Whether it is what a text would be cast to beside it.
fn is_read_from_text(data_type: &DataType) -> bool {
    use DataType::{Date32, Date64, Time32, Time64, Timestamp};
    data_type.is_numeric()
        || matches!(
            data_type,
            Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..)
        )
}

/// Expressions that are brought to one type: that of the number or the time, where one is that.
fn check_compared(by: &str, all: &[&Expr], schema: &DFSchema) -> Checked<()> {
    let types: Result<Vec<DataType>, _> = all.iter().map(|expr| expr.get_type(schema)).collect();
    // What has no type is refused with its own reason.
    let Ok(types) = types else { return Ok(()) };
    let Some(read_as) = types.iter().find(|data_type| is_read_from_text(data_type)) else {
        return Ok(());
    };
    let mut typed = all.iter().zip(&types);
    match typed.find(|(expr, data_type)| is_open_text(expr, data_type)) {
        Some((text, _)) => Err(complaint(by, text, read_as, all)),
        None => Ok(()),
    }
}

/// A function's arguments are brought to the types that it takes.
fn check_call(call: &ScalarFunction, schema: &DFSchema) -> Checked<()> {
    let fields: Result<Vec<_>, _> = call.args.iter().map(|arg| arg.to_field(schema)).collect();
    let Ok(fields) = fields else { return Ok(()) };
    let fields: Vec<_> = fields.into_iter().map(|(_, field)| field).collect();
    let Ok(taken) = fields_with_udf(&fields, call.func.as_ref()) else {
        return Ok(());
    };
    let mut args = call.args.iter().zip(&fields).zip(&taken);
    let cast = args.find(|((arg, field), taken)| {
        is_open_text(arg, field.data_type()) && is_read_from_text(taken.data_type())
    });
    match cast {
        Some(((text, _), taken)) => {
            let by = format!("{}()", call.func.name());
            let all: Vec<&Expr> = call.args.iter().collect();
            Err(complaint(&by, text, taken.data_type(), &all))
        }
        None => Ok(()),
    }
}

/// A text that is not known before the events are.
fn is_open_text(expr: &Expr, data_type: &DataType) -> bool {
    let is_text = matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    );
    is_text && !matches!(expr, Expr::Literal(..))
}

fn complaint(by: &str, text: &Expr, read_as: &DataType, all: &[&Expr]) -> Complaint {
    let literal = all.iter().find_map(|expr| match expr {
        Expr::Literal(value, _) if value.data_type().is_numeric() => Some(value.to_string()),
        _ => None,
    });
    let place = all.iter().find_map(|expr| columns_span(expr));
    words::text_read_as(by, walk::name(text), read_as, literal.as_deref())
        .span(columns_span(text).or(place))
}
