//! Streams, as `sources.sql` declares them.

use super::{Wrong, file, render};
use crate::project::Project;

#[test]
fn mistakes_in_sources_are_named() {
    let wrong = Wrong::default();
    let check = |sources: &str, expected: &str| {
        let got = render(Project::plan(&file("sources.sql", sources), &[], None));
        wrong.note(sources, &got, expected);
    };
    let columns = "(id VARCHAR, t TIMESTAMP)";
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t)"),
        "ok",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's'"),
        "add WITH ORDER",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS PARQUET LOCATION 's' WITH ORDER (t)"),
        "STORED AS KAFKA",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (id)"),
        "declare it as TIMESTAMP",
    );
    check(
        &format!("CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's s' WITH ORDER (t)"),
        "not a name that a Kafka topic can have",
    );
    check(
        &format!(
            "CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t) OPTIONS ('kee' 'id')"
        ),
        "did you mean 'key'?",
    );
    check(
        &format!(
            "CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t) OPTIONS ('id' 'idd')"
        ),
        "did you mean 'id'?",
    );
    check(
        &format!(
            "CREATE EXTERNAL TABLE s {columns} STORED AS KAFKA LOCATION 's' WITH ORDER (t) OPTIONS ('format' 'avro')"
        ),
        "use 'format' 'json'",
    );
    let with = |columns: &str, rest: &str| {
        format!("CREATE EXTERNAL TABLE s ({columns})\nSTORED AS KAFKA LOCATION 's' {rest}")
    };
    let order = "WITH ORDER (t)";
    check(
        &with("id VARCHAR NOT NULL, t TIMESTAMP, x DOUBEL", order),
        "1:62 there is no type 'DOUBEL' | did you mean 'DOUBLE'?",
    );
    check(
        &with("id VARCHAR, t DATETIME", order),
        "1:40 there is no type 'DATETIME' | did you mean 'TIMESTAMP'?",
    );
    check(
        &with("id VARCHAR NOT NULL, x NOT NULL, t TIMESTAMP", order),
        "1:47 column 'x' has no type | write its type behind its name: x DOUBLE NOT NULL",
    );
    check(
        &with("id VARCHAR NOT NULL DEFAULT 'x', t TIMESTAMP", order),
        "1:26 column 'id' is declared with a DEFAULT, which a stream cannot have | leave it out: what a message lacks",
    );
    check(
        &with("id VARCHAR PRIMARY KEY, t TIMESTAMP", order),
        "1:26 column 'id' is declared with a key, which a stream cannot have | leave it out, and say by which column",
    );
    check(
        &with("id VARCHAR CHECK (id <> ''), t TIMESTAMP", order),
        "1:26 column 'id' is declared with a CHECK, which a stream cannot have | leave it out: a view's WHERE",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP, PRIMARY KEY (id)", order),
        "1:51 a stream has no constraint: PRIMARY KEY (id) | leave it out, and say",
    );
    check(
        &with(
            "id VARCHAR, t TIMESTAMP",
            "PARTITIONED BY (id) WITH ORDER (t)",
        ),
        "2:30 a stream has the partitions of its topic | leave PARTITIONED BY out",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP", "WITH ORDER (t DESC)"),
        "2:35 events come in the order of time, the earliest first, and not by t DESC | WITH ORDER (t)",
    );
    check(
        &with("id VARCHAR, id INT, t TIMESTAMP", order),
        "column 'id' is declared twice",
    );
    check(
        &with("id VARCHAR, tt TIMESTAMP", order),
        "2:42 there is no column 't' | did you mean 'tt'?",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP, x INTERVAL", order),
        "1:51 column 'x' is of type INTERVAL, which a stream cannot carry | a length of time is a number of seconds: x DOUBLE",
    );
    check(
        &with("id VARCHAR, t TIMESTAMP, x INT[]", order),
        "1:51 column 'x' is of type INT[], which a stream cannot carry | use BOOLEAN, an integer",
    );
    check(
        &with("\"\" VARCHAR, t TIMESTAMP", order),
        "1:26 a column has an empty name",
    );
    check(
        "CREATE EXTERNAL TABLE \"\" (t TIMESTAMP) STORED AS KAFKA LOCATION 's' WITH ORDER (t)",
        "the stream has an empty name",
    );
    let columns = "id VARCHAR, t TIMESTAMP";
    check(
        &with(columns, "WITH ORDR (t)"),
        "2:35 'ORDR' is not expected here | did you mean ORDER?",
    );
    check(
        &with(columns, "WITH (topik = 'x')"),
        "a stream's topic is its LOCATION, its time WITH ORDER (event_time)",
    );
    check(
        &with(columns, "OPTION ('id' 'id')"),
        "did you mean OPTIONS?",
    );
    check(
        &with(columns, "WITH ORDER (t) OPTIONS ('id' = 'id')"),
        "an option is a name and a value, without =",
    );
    check(
        &with(columns, "WITH ORDER (t) OPTIONS ('kee' 'id')"),
        "2:54 a stream has no option 'kee' | did you mean 'key'?",
    );
    check(
        &with(columns, "WITH ORDER (t) OPTIONS ('id' 'id', 'id' 't')"),
        "option 'id' is set twice",
    );
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR, t TIMESTAMP) STORED AS KAFKA WITH ORDER (t)",
        "1:1 the stream lacks LOCATION",
    );
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR NOT NULL t TIMESTAMP) STORED AS KAFKA LOCATION 's'",
        "1:46 't' is not expected here, but ',' or ')' after column definition | does a comma lack before 't'?",
    );
    check("SELECT 1", "sources.sql declares streams");
    check(
        "CREATE EXTERNAL TABLE s (id VARCHAR,, t TIMESTAMP)",
        "1:37 ",
    );
}
