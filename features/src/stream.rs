//! A stream of events: one Kafka topic with a schema, as `CREATE EXTERNAL TABLE … STORED AS KAFKA` declares it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::sql::parser::{CreateExternalTable, Statement};
use datafusion::sql::sqlparser::ast::{ColumnDef, ColumnOption, Expr, OrderByOptions, Value};

use crate::FeatureError;
use crate::key::unique_of_id;
use crate::packed;
use crate::plan::{Planner, engine_schema};
use crate::problem::{Checked, Complaint, known_names, name_span};

/// A declared stream.
#[derive(Debug)]
pub struct Stream {
    /// Its name in SQL.
    pub name: String,
    /// The Kafka topic that carries it.
    pub topic: String,
    /// Its columns; times are UTC microseconds.
    pub schema: SchemaRef,
    /// Index of the event time's column.
    pub time: usize,
    /// Index of the column that keys the topic's messages.
    pub key: Option<usize>,
    /// Index of the column that names an event: a second delivery of an id at its event time counts once.
    pub id: Option<usize>,
}

/// An id by which an event was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedId {
    /// As [`pack_keys`](crate::pack_keys) gives the column of the ids.
    pub packed: Vec<u8>,
    /// As in [`StateRow::unique`](crate::StateRow::unique).
    pub unique: [u8; 16],
}

const OPTIONS: [&str; 3] = ["format", "key", "id"];

impl Stream {
    pub(crate) fn plan(statement: &CreateExternalTable, planner: &Planner) -> Checked<Arc<Self>> {
        let name = table_name(&statement.name.to_string());
        if name.is_empty() {
            return Err(Complaint::new("the stream has an empty name")
                .hint("CREATE EXTERNAL TABLE transactions (…)"));
        }
        if !statement.file_type.eq_ignore_ascii_case("kafka") {
            return Err(Complaint::new(format!(
                "a stream is STORED AS KAFKA, and '{name}' is STORED AS {}",
                statement.file_type
            ))
            .hint("STORED AS KAFKA LOCATION 'topic'; files are given to a command: --events"));
        }
        check_columns(statement)?;
        check_clauses(statement)?;
        check_order(statement)?;
        let plan = planner.logical_plan(Statement::CreateExternalTable(statement.clone()))?;
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(table)) = plan else {
            return Err(Complaint::new(
                "this is not a CREATE EXTERNAL TABLE statement",
            ));
        };
        let schema = engine_schema(table.schema.as_arrow());
        let options = Options::read(statement)?;
        options.format()?;
        let stream = Self {
            topic: topic(statement)?,
            time: time_column(statement, &schema)?,
            key: options.column("key", &schema)?,
            id: options.column("id", &schema)?,
            name,
            schema,
        };
        stream.check_types(&statement.columns)?;
        Ok(Arc::new(stream))
    }

    /// Indexes of the columns that every event must have: those declared NOT NULL, the event time and the id.
    #[must_use]
    pub fn required(&self) -> Vec<usize> {
        let declared = |index: &usize| !self.schema.field(*index).is_nullable();
        let special = |index: &usize| {
            *index == self.time || Some(*index) == self.id || Some(*index) == self.key
        };
        (0..self.schema.fields().len())
            .filter(|i| declared(i) || special(i))
            .collect()
    }

    /// Whether the topic is keyed by the events' id: a message without a value then deletes the event of its key.
    #[must_use]
    pub fn is_keyed_by_id(&self) -> bool {
        self.id.is_some() && self.id == self.key
    }

    /// The ids of deleted events, where the topic is keyed by ids; `ids` is a column of theirs.
    ///
    /// # Errors
    /// [`FeatureError::Arguments`] for a column of another type, or an id that is null.
    pub fn deleted_ids(&self, ids: &ArrayRef) -> Result<Vec<DeletedId>, FeatureError> {
        let Some(column) = self.id.filter(|_| self.is_keyed_by_id()) else {
            return Err(FeatureError::Arguments(format!(
                "stream '{}' is not keyed by an id",
                self.name
            )));
        };
        let data_type = self.schema.field(column).data_type();
        if ids.data_type() != data_type || ids.null_count() > 0 {
            return Err(FeatureError::Arguments(format!(
                "a deleted event of stream '{}' has no id of type {data_type}",
                self.name
            )));
        }
        let named = |packed: Vec<u8>| DeletedId {
            unique: unique_of_id(&packed),
            packed,
        };
        let packed = packed::pack_keys(&[Arc::clone(ids)]);
        Ok(packed.into_iter().map(named).collect())
    }

    fn check_types(&self, columns: &[ColumnDef]) -> Checked<()> {
        let mut declared = self.schema.fields().iter().zip(columns);
        let Some((field, column)) = declared.find(|(field, _)| !is_read(field.data_type())) else {
            return Ok(());
        };
        let name = &column.name;
        let hint = match field.data_type() {
            DataType::Interval(_) => {
                format!("a length of time is a number of seconds: {name} DOUBLE")
            }
            _ => "use BOOLEAN, an integer, FLOAT, DOUBLE, DECIMAL, VARCHAR, DATE or TIMESTAMP"
                .to_owned(),
        };
        Err(Complaint::new(format!(
            "column '{name}' is of type {}, which a stream cannot carry",
            column.data_type
        ))
        .hint(hint)
        .span(name_span(name)))
    }
}

/// Whether values of that type can be read from JSON, and kept.
fn is_read(data_type: &DataType) -> bool {
    packed::is_supported(data_type) && !matches!(data_type, DataType::Interval(_))
}

/// The name as DataFusion's catalog has it: unquoted names in lower case.
pub(crate) fn table_name(written: &str) -> String {
    match written
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    {
        Some(quoted) => quoted.to_owned(),
        None => written.to_lowercase(),
    }
}

fn topic(statement: &CreateExternalTable) -> Checked<String> {
    let [topic] = statement.locations.as_slice() else {
        return Err(Complaint::new("a stream reads one topic")
            .hint("LOCATION 'topic'; declare one stream a topic"));
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if topic.is_empty() || topic.len() > 249 || !topic.chars().all(legal) {
        return Err(Complaint::new(format!(
            "'{topic}' is not a name that a Kafka topic can have"
        ))
        .hint("letters, digits, '.', '_' and '-', at most 249 of them"));
    }
    Ok(topic.clone())
}

fn time_column(statement: &CreateExternalTable, schema: &SchemaRef) -> Checked<usize> {
    let orders: Vec<_> = statement.order_exprs.iter().flatten().collect();
    let [order] = orders.as_slice() else {
        return Err(
            Complaint::new("a stream is ordered by one column, its event time")
                .hint("add WITH ORDER (event_time)"),
        );
    };
    let OrderByOptions { asc, nulls_first } = order.options;
    if asc == Some(false) || nulls_first.is_some() {
        return Err(Complaint::new(format!(
            "events come in the order of time, the earliest first, and not by {order}"
        ))
        .hint(format!("WITH ORDER ({})", order.expr))
        .word("ORDER"));
    }
    let Expr::Identifier(name) = &order.expr else {
        return Err(Complaint::new(format!("'{}' is not a column", order.expr))
            .hint("WITH ORDER (event_time): the column that holds the event's time"));
    };
    let column = find_column(&table_name(&name.to_string()), schema)?;
    if schema.field(column).data_type() != &DataType::Timestamp(TimeUnit::Microsecond, None) {
        return Err(Complaint::new(format!(
            "the event time '{name}' is of type {}",
            schema.field(column).data_type()
        ))
        .hint("declare it as TIMESTAMP NOT NULL"));
    }
    Ok(column)
}

/// The parser takes the word behind a column's name for its type, whatever it is.
fn check_columns(statement: &CreateExternalTable) -> Checked<()> {
    let has_no_name = |column: &&ColumnDef| column.name.value.is_empty();
    if let Some(ColumnDef { name, .. }) = statement.columns.iter().find(has_no_name) {
        return Err(Complaint::new("a column has an empty name")
            .hint("a name has letters, digits and _: amount DOUBLE NOT NULL")
            .span(name_span(name)));
    }
    let has_no_type = |column: &&ColumnDef| {
        let written = column.data_type.to_string().to_uppercase();
        ["NOT", "NULL", "PRIMARY", "DEFAULT"].contains(&written.as_str())
    };
    if let Some(ColumnDef { name, .. }) = statement.columns.iter().find(has_no_type) {
        return Err(Complaint::new(format!("column '{name}' has no type"))
            .hint(format!(
                "write its type behind its name: {name} DOUBLE NOT NULL"
            ))
            .span(name_span(name)));
    }
    statement.columns.iter().try_for_each(check_options)
}

/// The planner passes over what it does not know of a column.
fn check_options(column: &ColumnDef) -> Checked<()> {
    let mut options = column.options.iter().map(|option| &option.option);
    let (clause, hint) = match options.find(|option| !is_kept(option)) {
        None => return Ok(()),
        Some(ColumnOption::Default(_)) => (
            "a DEFAULT",
            "leave it out: what a message lacks is null, and a view can write coalesce(column, value)",
        ),
        Some(ColumnOption::PrimaryKey(_) | ColumnOption::Unique(_)) => ("a key", KEY_HINT),
        Some(ColumnOption::Check(_)) => (
            "a CHECK",
            "leave it out: a view's WHERE says which events count",
        ),
        Some(_) => (
            "more than a type",
            "leave the rest out: a stream's column has a type, and may be NOT NULL",
        ),
    };
    let name = &column.name;
    let message = format!("column '{name}' is declared with {clause}, which a stream cannot have");
    Err(Complaint::new(message).hint(hint).span(name_span(name)))
}

const KEY_HINT: &str =
    "leave it out, and say by which column an event is known: OPTIONS ('id' 'column')";

/// Whether a stream does what a column's option says.
fn is_kept(option: &ColumnOption) -> bool {
    matches!(
        option,
        ColumnOption::Null | ColumnOption::NotNull | ColumnOption::Comment(_)
    )
}

/// What is said of files and of tables, and would be passed over.
fn check_clauses(statement: &CreateExternalTable) -> Checked<()> {
    if let Some(constraint) = statement.constraints.first() {
        let text = constraint.to_string();
        let word = text.split_whitespace().next().unwrap_or_default();
        return Err(
            Complaint::new(format!("a stream has no constraint: {text}"))
                .hint(KEY_HINT)
                .word(word),
        );
    }
    if !statement.table_partition_cols.is_empty() {
        return Err(Complaint::new("a stream has the partitions of its topic")
            .hint("leave PARTITIONED BY out")
            .word("PARTITIONED"));
    }
    Ok(())
}

/// The planner names a column of WITH ORDER that there is not, and none that there are.
fn check_order(statement: &CreateExternalTable) -> Checked<()> {
    let declared = statement.columns.iter();
    let names: Vec<String> = declared
        .map(|column| table_name(&column.name.to_string()))
        .collect();
    for order in statement.order_exprs.iter().flatten() {
        let Expr::Identifier(name) = &order.expr else {
            continue;
        };
        let column = table_name(&name.to_string());
        if !names.contains(&column) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            return Err(Complaint::new(format!("there is no column '{column}'"))
                .hint(known_names("column", &column, &names))
                .span(name_span(name)));
        }
    }
    Ok(())
}

fn find_column(name: &str, schema: &SchemaRef) -> Checked<usize> {
    schema.index_of(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Complaint::new(format!("there is no column '{name}'"))
            .hint(known_names("column", name, &names))
            .word(name)
    })
}

struct Options(Vec<(String, String)>);

impl Options {
    fn read(statement: &CreateExternalTable) -> Checked<Self> {
        let mut options = Vec::new();
        for (name, value) in &statement.options {
            let name = name.to_lowercase();
            if !OPTIONS.contains(&name.as_str()) {
                return Err(Complaint::new(format!("a stream has no option '{name}'"))
                    .hint(known_names("option", &name, &OPTIONS))
                    .word(&name));
            }
            if options.iter().any(|(known, _)| *known == name) {
                return Err(Complaint::new(format!("option '{name}' is set twice"))
                    .hint("drop one of the two")
                    .word(&name));
            }
            match value {
                Value::SingleQuotedString(text) | Value::DoubleQuotedString(text) => {
                    options.push((name, text.clone()));
                }
                other => {
                    return Err(Complaint::new(format!("option '{name}' is {other}"))
                        .hint(format!("give it as text: '{name}' 'value'")));
                }
            }
        }
        Ok(Self(options))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    fn format(&self) -> Checked<()> {
        match self.get("format") {
            None | Some("json") => Ok(()),
            Some(other) => Err(
                Complaint::new(format!("events of format '{other}' are not read"))
                    .hint("use 'format' 'json': one JSON object a message"),
            ),
        }
    }

    fn column(&self, option: &str, schema: &SchemaRef) -> Checked<Option<usize>> {
        self.get(option)
            .map(|name| find_column(name, schema))
            .transpose()
    }
}
