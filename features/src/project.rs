//! A project: its streams, its feature views and its inputs, planned once from the text of its SQL files.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::Span;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    CreateView, Expr as SqlExpr, SelectItem, Statement as SqlStatement, Value as SqlValue,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::clauses;
use crate::inputs::InputView;
use crate::names;
use crate::parts;
use crate::places::Places;
use crate::plan::Planner;
use crate::problem::{Checked, Complaint, Problem, known_names, point, sql_span};
use crate::resolution::{self, Resolution};
use crate::slips::{Slips, select_of};
use crate::stream::Stream;
use crate::syntax::{self, Declares};
use crate::view::{FeatureView, is_of_one_order};
use crate::windows;

/// The text of one SQL file of a project.
#[derive(Debug, Clone)]
pub struct SqlFile {
    /// Its path, as messages name it.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// A planned project.
#[derive(Debug)]
pub struct Project {
    /// Streams, in the order of `sources.sql`.
    pub streams: Vec<Arc<Stream>>,
    /// Feature views, in the order of their files.
    pub views: Vec<Arc<FeatureView>>,
    /// Input views, in the order of `inputs.sql`.
    pub inputs: Vec<Arc<InputView>>,
}

impl Project {
    /// Plans a project.
    ///
    /// # Errors
    /// Every mistake that was found, each with its position and, where there is one, a hint.
    pub fn plan(
        sources: &SqlFile,
        views: &[SqlFile],
        inputs: Option<&SqlFile>,
    ) -> Result<Self, Vec<Problem>> {
        let mut planning = Planning::new();
        planning.file(sources, Declares::Streams, Planning::stream);
        if planning.problems.is_empty() {
            for file in views {
                planning.file(file, Declares::Views, Planning::feature_view);
            }
        }
        // A view that failed would make its users fail too: one mistake, one message.
        if planning.problems.is_empty() {
            inputs
                .into_iter()
                .for_each(|file| planning.file(file, Declares::Views, Planning::input_view));
        }
        planning.finish()
    }

    /// The stream of that name.
    ///
    /// # Errors
    /// The nearest known name, as a hint.
    pub fn stream(&self, name: &str) -> Result<&Arc<Stream>, String> {
        find("stream", name, &self.streams, |stream| &stream.name)
    }

    /// The feature view of that name.
    ///
    /// # Errors
    /// The nearest known name, as a hint.
    pub fn view(&self, name: &str) -> Result<&Arc<FeatureView>, String> {
        find("feature view", name, &self.views, |view| &view.name)
    }

    /// The input view of that name.
    ///
    /// # Errors
    /// The nearest known name, as a hint.
    pub fn input_view(&self, name: &str) -> Result<&Arc<InputView>, String> {
        find("input view", name, &self.inputs, |view| &view.name)
    }

    /// What decides the state of this project: a store that another layout filled answers for another project.
    #[must_use]
    pub fn state_layout(&self) -> String {
        let mut layouts: Vec<String> = self
            .views
            .iter()
            .map(|view| format!("{} reach {:?}", view.layout(), view.reach_us()))
            .collect();
        layouts.sort();
        layouts.join("\n")
    }
}

fn find<'a, T>(
    what: &str,
    name: &str,
    all: &'a [Arc<T>],
    name_of: impl Fn(&T) -> &String,
) -> Result<&'a Arc<T>, String> {
    all.iter()
        .find(|item| name_of(item) == name)
        .ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|item| name_of(item).as_str()).collect();
            known_names(what, name, &names)
        })
}

struct Planning {
    planner: Planner,
    streams: Vec<Arc<Stream>>,
    views: Vec<Arc<FeatureView>>,
    inputs: Vec<Arc<InputView>>,
    problems: Vec<Problem>,
}

impl Planning {
    fn new() -> Self {
        Self {
            planner: Planner::new(),
            streams: Vec::new(),
            views: Vec::new(),
            inputs: Vec::new(),
            problems: Vec::new(),
        }
    }

    fn finish(self) -> Result<Project, Vec<Problem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        Ok(Project {
            streams: self.streams,
            views: self.views,
            inputs: self.inputs,
        })
    }

    fn file(
        &mut self,
        file: &SqlFile,
        declares: Declares,
        plan: fn(&mut Self, Statement) -> Checked<()>,
    ) {
        // Editors put a byte order mark before the first column.
        let text = file.text.strip_prefix('\u{feff}').unwrap_or(&file.text);
        let statements = DFParserBuilder::new(text)
            .with_dialect(&GenericDialect {})
            .build()
            .and_then(|mut parser| parser.parse_statements());
        let statements = match statements {
            Ok(statements) => statements,
            Err(error) => {
                let end = point(text.lines().count() as u64, 1);
                let complaint = syntax::complaint(&error, text, declares);
                self.problems
                    .push(complaint.at(&file.path, &Places::default(), end));
                return;
            }
        };
        for statement in statements {
            let places = places(&statement, text);
            let place = statement_name(&statement).unwrap_or_else(|| first_word(text));
            let checked = self.check_clauses(&statement, text, declares);
            if let Err(complaint) = checked.and_then(|()| plan(self, statement)) {
                self.problems.push(complaint.at(&file.path, &places, place));
            }
        }
    }

    fn check_clauses(&self, statement: &Statement, text: &str, declares: Declares) -> Checked<()> {
        match create_view(statement) {
            Some(view) if declares == Declares::Views => clauses::check(view, text, &self.planner),
            _ => Ok(()),
        }
    }

    fn stream(&mut self, statement: Statement) -> Checked<()> {
        let Statement::CreateExternalTable(table) = statement else {
            return Err(
                Complaint::new("sources.sql declares streams, and this is something else").hint(
                    "CREATE EXTERNAL TABLE … STORED AS KAFKA; views go to features/ and inputs.sql",
                ),
            );
        };
        let stream = Stream::plan(&table, &self.planner)?;
        self.planner
            .register(&stream.name, Arc::clone(&stream.schema))?;
        self.streams.push(stream);
        Ok(())
    }

    fn feature_view(&mut self, mut statement: Statement) -> Checked<()> {
        let resolution = resolution::take(&mut statement)?;
        if let Some(complaint) = self.slips().view_as_source(&statement) {
            return Err(complaint);
        }
        let planned = self.planned_feature_view(statement.clone(), resolution);
        planned.map_err(|complaint| {
            complaint.unless_certain(|| self.slips().in_feature_view(&statement))
        })
    }

    fn planned_feature_view(
        &mut self,
        statement: Statement,
        resolution: Option<Resolution>,
    ) -> Checked<()> {
        let with_unused = with_unused_windows(&statement);
        let (name, plans) = self.feature_plans(statement)?;
        self.planner.check_new(&name)?;
        let planned = |plans: &[LogicalPlan]| {
            FeatureView::plan(&name, plans, resolution, &self.streams, &self.planner)
        };
        let view = planned(&plans)?;
        if let Some(statement) = with_unused {
            let (_, plans) = self.feature_plans(statement)?;
            // A word would be looked for behind the window, where the next OVER is of another view.
            planned(&plans).map_err(Complaint::without_word)?;
        }
        check_columns(&view.schema)?;
        self.check_full_names(&view)?;
        if let Some(other) = self.views.iter().find(|other| other.id == view.id) {
            return Err(Complaint::new(format!(
                "'{name}' and '{}' collide in the store",
                other.name
            ))
            .hint("give one of the views another name"));
        }
        self.planner.register(&name, Arc::clone(&view.schema))?;
        self.views.push(view);
        Ok(())
    }

    /// Training sets name a feature by its view and its column.
    fn check_full_names(&self, view: &FeatureView) -> Checked<()> {
        let full = |view: &FeatureView, name: &str| format!("{}__{name}", view.name);
        for other in &self.views {
            let known: Vec<String> = other.features().map(|name| full(other, name)).collect();
            let mut features = view.features();
            if let Some(name) = features.find(|name| known.contains(&full(view, name))) {
                return Err(Complaint::new(format!(
                    "a feature of view '{}' is named '{}' in training sets, as this one would be",
                    other.name,
                    full(view, name)
                ))
                .hint("give the view or the column another name, without __")
                .item(view.schema.index_of(name).ok()));
            }
        }
        Ok(())
    }

    fn input_view(&mut self, mut statement: Statement) -> Checked<()> {
        if resolution::take(&mut statement)?.is_some() {
            return Err(
                Complaint::new("inputs have no resolution: they join what views say")
                    .hint("set it in the view that reads the stream"),
            );
        }
        let planned = self.planned_input_view(statement.clone());
        planned.map_err(|complaint| complaint.unless_certain(|| self.slips().in_inputs(&statement)))
    }

    fn planned_input_view(&mut self, statement: Statement) -> Checked<()> {
        let window = select_of(&statement).and_then(|select| select.named_window.first().cloned());
        let (name, plan) = self.view_plan(statement)?;
        self.planner.check_new(&name)?;
        if let Some(window) = window {
            let unused = format!(
                "nothing is over window '{}': inputs are of one event",
                window.0.value
            );
            return Err(Complaint::new(unused)
                .hint("declare it in a feature view, and join the view here")
                .span(sql_span(&window)));
        }
        let view = InputView::plan(&name, &plan, &self.streams, &self.views, &self.planner)?;
        check_columns(&view.schema)?;
        self.planner.register(&name, Arc::clone(&view.schema))?;
        self.inputs.push(view);
        Ok(())
    }

    fn slips(&self) -> Slips<'_> {
        Slips {
            planner: &self.planner,
            streams: &self.streams,
            views: &self.views,
        }
    }

    /// The name of a feature view, and the plans of its statement's parts: one, but where it has very many columns.
    fn feature_plans(&self, statement: Statement) -> Checked<(String, Vec<LogicalPlan>)> {
        let parts = parts::of(&statement).unwrap_or_default();
        let mut name = String::new();
        let mut plans = Vec::with_capacity(parts.len());
        for (number, part) in parts.into_iter().enumerate() {
            let planned = self.view_plan(part);
            let (of_part, plan) = planned.map_err(|c| c.behind(number * parts::ITEMS))?;
            name = of_part;
            plans.push(plan);
        }
        if plans.is_empty() || !is_of_one_order(&plans) {
            let (name, plan) = self.view_plan(statement)?;
            return Ok((name, vec![plan]));
        }
        Ok((name, plans))
    }

    fn view_plan(&self, statement: Statement) -> Checked<(String, LogicalPlan)> {
        if create_view(&statement).is_none() {
            return Err(
                Complaint::new("this file holds views, and this statement is none")
                    .hint("CREATE VIEW name AS SELECT …; streams go to sources.sql"),
            );
        }
        self.typed_view(statement.clone())
            .map_err(|complaint| match complaint.is_placed() {
                true => complaint,
                false => self.blamed(complaint, statement),
            })
    }

    fn typed_view(&self, statement: Statement) -> Checked<(String, LogicalPlan)> {
        let LogicalPlan::Ddl(DdlStatement::CreateView(view)) =
            self.planner.logical_plan(statement)?
        else {
            return Err(Complaint::new("this statement is not a plain CREATE VIEW")
                .hint("CREATE VIEW name AS SELECT …"));
        };
        let name = view.name.table().to_owned();
        Ok((name, self.planner.typed(view.input.as_ref().clone())?))
    }

    /// A complaint with the item of SELECT that it is about: the first one that cannot be planned alone either.
    fn blamed(&self, complaint: Complaint, statement: Statement) -> Complaint {
        let alone = |items: Vec<SelectItem>| {
            let mut part = statement.clone();
            *projection(&mut part)? = items;
            Some(self.typed_view(part).is_ok())
        };
        let one = SelectItem::UnnamedExpr(SqlExpr::value(SqlValue::Null));
        // Where no item at all can be planned, none is to blame.
        if alone(vec![one]) != Some(true) {
            let place =
                select_of(&statement).and_then(|select| sql_span(select.selection.as_ref()?));
            return complaint.span(place);
        }
        let items = projection(&mut statement.clone()).map(std::mem::take);
        let mut items = items.unwrap_or_default().into_iter();
        let culprit = items.position(|item| alone(vec![item]) == Some(false));
        complaint.item(culprit)
    }
}

/// Refuses what DataFusion names a column that is given no name, where others cannot have it.
fn check_columns(schema: &Schema) -> Checked<()> {
    let is_wrong = |name: &str| names::check("the column", name).is_err();
    let mut fields = schema.fields().iter();
    match fields.position(|field| is_wrong(field.name())) {
        None => Ok(()),
        Some(index) => Err(
            Complaint::new("the column needs a name of letters, digits and _")
                .hint("add AS name")
                .item(Some(index)),
        ),
    }
}

/// The same view with an aggregate over each window that it has none over; none where there is no such window.
fn with_unused_windows(statement: &Statement) -> Option<Statement> {
    let over_unused = windows::over_unused(select_of(statement)?);
    if over_unused.is_empty() {
        return None;
    }
    let mut statement = statement.clone();
    projection(&mut statement)?.extend(over_unused);
    Some(statement)
}

/// The items of a view's SELECT.
fn projection(statement: &mut Statement) -> Option<&mut Vec<SelectItem>> {
    Some(&mut parts::select_mut(statement)?.projection)
}

fn create_view(statement: &Statement) -> Option<&CreateView> {
    match statement {
        Statement::Statement(statement) => match statement.as_ref() {
            SqlStatement::CreateView(view) => Some(view),
            _ => None,
        },
        _ => None,
    }
}

/// Where the parts of a statement stand.
fn places(statement: &Statement, text: &str) -> Places {
    match select_of(statement) {
        Some(select) => Places::of(select, text),
        None => Places::of_words(text),
    }
}

fn statement_name(statement: &Statement) -> Option<Span> {
    match statement {
        Statement::CreateExternalTable(table) => sql_span(&table.name),
        other => create_view(other).and_then(|view| sql_span(&view.name)),
    }
}

/// Where the first word of a file stands, past comments and white space.
fn first_word(text: &str) -> Span {
    let tokens = Tokenizer::new(&GenericDialect {}, text)
        .tokenize_with_location()
        .unwrap_or_default();
    let word = tokens
        .into_iter()
        .find(|token| !matches!(token.token, Token::Whitespace(_)));
    word.map_or(point(1, 1), |word| {
        point(word.span.start.line, word.span.start.column)
    })
}

#[cfg(test)]
mod tests;
