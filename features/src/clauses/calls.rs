//! What is said of a call of a function, and of the window that it is over.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArgumentList, FunctionArguments, Ident, Select, WindowSpec, WindowType,
    visit_expressions,
};

use super::Clauses;
use crate::problem::{Complaint, sql_span};

impl Clauses<'_> {
    /// What is said of a call of a function.
    pub(super) fn of_calls(&self, select: &Select) -> Option<Complaint> {
        let found = visit_expressions(select, |expr| {
            let Expr::Function(call) = expr else {
                return ControlFlow::Continue(());
            };
            match self.of_call(call) {
                Some(complaint) => ControlFlow::Break(complaint),
                None => ControlFlow::Continue(()),
            }
        });
        found.break_value()
    }

    fn of_call(&self, call: &Function) -> Option<Complaint> {
        let Function {
            name,
            // Brackets around the call.
            uses_odbc_syntax: _,
            parameters,
            args,
            filter,
            null_treatment,
            over,
            within_group,
        } = call;
        let at = sql_span(name);
        let name = name.to_string().to_lowercase();
        if !matches!(parameters, FunctionArguments::None) {
            return Some(
                Complaint::new(format!("{name}() has two lists of arguments"))
                    .hint("put all of them in one: approx_percentile_cont(amount, 0.9)")
                    .span(at),
            );
        }
        if let Some(WindowType::WindowSpec(spec)) = over
            && window_name(spec).is_some()
        {
            return Some(
                Complaint::new("a window's name stands after OVER without brackets")
                    .hint(
                        "OVER d1, or OVER (PARTITION BY … ORDER BY … RANGE …) with all that it is",
                    )
                    .span(at),
            );
        }
        if over.is_some() && !within_group.is_empty() {
            return Some(
                Complaint::new("WITHIN GROUP is of all rows, and OVER says of which events")
                    .hint(
                        "approx_percentile_cont(x, 0.9) OVER …, or percentile_cont(x, 0.9) OVER …",
                    )
                    .span(self.near(at, "WITHIN GROUP").or(at)),
            );
        }
        if !self.planner.is_scalar(&name) {
            return None;
        }
        let (is_distinct, is_ordered) = match args {
            FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment,
                args: _,
                clauses,
            }) => (duplicate_treatment.is_some(), !clauses.is_empty()),
            FunctionArguments::None | FunctionArguments::Subquery(_) => (false, false),
        };
        let clauses = [
            (is_distinct, "DISTINCT"),
            (is_ordered, "ORDER BY"),
            (!within_group.is_empty(), "WITHIN GROUP"),
            (filter.is_some(), "FILTER"),
            (null_treatment.is_some(), "NULLS"),
            (over.is_some(), "OVER"),
        ];
        let (_, clause) = clauses.into_iter().find(|(is_there, _)| *is_there)?;
        Some(
            Complaint::new(format!(
                "{name}() is no aggregate, and {clause} would have no effect on it"
            ))
            .hint(format!(
                "it belongs to the aggregate inside: {name}(sum(amount) FILTER (WHERE …) OVER d1)"
            ))
            .span(self.near(at, clause).or(at)),
        )
    }
}

/// Of a window that builds on another one, the name of that.
pub(super) fn window_name(spec: &WindowSpec) -> Option<&Ident> {
    let WindowSpec {
        window_name,
        partition_by: _,
        order_by: _,
        window_frame: _,
    } = spec;
    window_name.as_ref()
}
