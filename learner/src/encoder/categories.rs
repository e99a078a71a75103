//! Which categories of an input get a code of their own.

/// So many of them at most: the most frequent …
const MOST: usize = 64;
/// … of which each is in so many rows at least: of a rarer one too little is known to say anything of it alone.
const LEAST_ROWS: usize = 20;

/// The categories of ascending values that get a code of their own, ascending; and the most frequent of all.
pub(super) fn vocabulary(values: &[f32]) -> (Vec<f32>, Option<f32>) {
    let mut runs: Vec<(usize, f32)> = values
        .chunk_by(|a, b| a == b)
        .map(|run| (run.len(), run[0]))
        .collect();
    // Of two that are as frequent the smaller code comes first, so that the same rows give the same.
    runs.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)));
    let usual = runs.first().map(|(_, category)| *category);
    let frequent = runs.iter().take(MOST);
    let frequent = frequent.take_while(|(rows, _)| *rows >= LEAST_ROWS);
    let mut categories: Vec<f32> = frequent.map(|(_, category)| *category).collect();
    categories.sort_unstable_by(f32::total_cmp);
    (categories, usual)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::*;
    use super::*;

    /// Examples of a number and a category.
    fn examples(rows: &[(f32, f32)]) -> Examples {
        let mut examples = Examples::of_kinds(vec![InputKind::Number, InputKind::Category]);
        for (number, category) in rows {
            examples.push(&[*number, *category], false, 1.0).unwrap();
        }
        examples
    }

    /// So many rows of each category.
    fn fitted(counts: &[(f32, usize)]) -> Encoder {
        let rows = counts.iter();
        let rows =
            rows.flat_map(|(category, rows)| (0..*rows).map(move |row| (row as f32, *category)));
        Encoder::fit(&examples(&rows.collect::<Vec<_>>()), 4).unwrap()
    }

    fn categories(encoder: &Encoder) -> &[f32] {
        match &encoder.scales()[1] {
            Scale::Categories(categories) => categories,
            other => panic!("{other:?}"),
        }
    }

    /// The codes of the category, of a row.
    fn codes(encoder: &Encoder, category: f32) -> Vec<f32> {
        let mut codes = vec![f32::NAN; encoder.encoded_width()];
        encoder.encode(&[1.0, category], &mut codes);
        codes[encoder.offset(1)..].to_vec()
    }

    #[test]
    fn each_frequent_category_has_a_code_and_the_rest_share_one() {
        let encoder = fitted(&[(9.0, 30), (5.0, 50), (7.0, LEAST_ROWS), (3.0, 19)]);
        assert_eq!(categories(&encoder), [5.0, 7.0, 9.0]);
        assert_eq!(codes(&encoder, 5.0), [1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(codes(&encoder, 9.0), [0.0, 0.0, 1.0, 0.0, 0.0]);
        // Too rare, never seen, between two, not a category at all.
        for other in [3.0, 16_777_215.0, 6.0, -1.0, f32::INFINITY] {
            assert_eq!(codes(&encoder, other), [0.0, 0.0, 0.0, 1.0, 0.0], "{other}");
        }
        assert_eq!(codes(&encoder, f32::NAN), [0.0, 0.0, 0.0, 0.0, 1.0]);
        assert!(encoder.is_categorical(1) && !encoder.is_categorical(0));
        assert_eq!(encoder.usual(1), 5.0);
    }

    #[test]
    fn of_too_many_categories_the_most_frequent_have_codes() {
        let counts: Vec<(f32, usize)> = (0..100).map(|i| (i as f32, 21 + i / 2)).collect();
        let encoder = fitted(&counts);
        let expected: Vec<f32> = (36..100).map(|i| i as f32).collect();
        assert_eq!(categories(&encoder), expected);
        assert_eq!(encoder.usual(1), 98.0);
        let none = fitted(&[(1.0, 3), (2.0, 4)]);
        assert_eq!(categories(&none), [] as [f32; 0]);
        assert_eq!(codes(&none, 2.0), [1.0, 0.0]);
        assert_eq!(none.usual(1), 2.0);
    }

    #[test]
    fn where_most_rows_lack_it_nothing_is_the_usual() {
        let nulls = (0..60).map(|row| (row as f32, f32::NAN));
        let rows: Vec<(f32, f32)> = nulls.chain((0..40).map(|row| (row as f32, 8.0))).collect();
        let encoder = Encoder::fit(&examples(&rows), 4).unwrap();
        assert!(encoder.usual(1).is_nan());
        assert_eq!(codes(&encoder, 8.0), [1.0, 0.0, 0.0]);
    }

    #[test]
    fn now_and_then_a_category_is_learned_as_one_that_was_never_seen() {
        let encoder = fitted(&[(4.0, 30)]);
        let learned = |number: usize, category: f32| {
            let mut codes = vec![f32::NAN; encoder.encoded_width()];
            encoder.encode_to_learn(number, &[1.0, category], &mut codes);
            codes
        };
        let of = |row: [f32; 2]| {
            let mut codes = vec![f32::NAN; encoder.encoded_width()];
            encoder.encode(&row, &mut codes);
            codes
        };
        let rows = 0..10 * HIDE_EVERY;
        let hidden = rows.filter(|number| learned(*number, 4.0) == of([1.0, 5.0]));
        assert_eq!(hidden.count(), 10);
        let rows = 0..HIDE_EVERY;
        let shown = rows.filter(|number| learned(*number, 4.0) == of([1.0, 4.0]));
        assert_eq!(shown.count(), HIDE_EVERY - 1);
        // What is missing stays so.
        for number in 0..HIDE_EVERY {
            assert_eq!(learned(number, f32::NAN), of([1.0, f32::NAN]));
        }
    }

    #[test]
    fn the_file_of_categories_is_pinned() {
        let encoder = fitted(&[(4.0, 30), (16_777_215.0, 21)]);
        let text = serde_json::to_string(&encoder).unwrap();
        assert_eq!(serde_json::from_str::<Encoder>(&text).unwrap(), encoder);
        assert!(
            text.starts_with(r#"{"format":2,"edges":[["#)
                && text.ends_with(
                    r#"],[]],"medians":[12.0,4.0],"categories":[null,[4.0,16777215.0]]}"#
                ),
            "{text}"
        );
        let second =
            r#"{"format":2,"edges":[[0,1],[]],"medians":[0.5,null],"categories":[null,[2,3]]}"#;
        let encoder = serde_json::from_str::<Encoder>(second).unwrap();
        assert_eq!(categories(&encoder), [2.0, 3.0]);
        assert!(encoder.usual(1).is_nan());
        for (bad, message) in [
            (
                r#"{"format":2,"edges":[[0,1]],"categories":[null,[1]]}"#,
                "2 inputs where",
            ),
            (
                r#"{"format":2,"edges":[[0,1],[]],"categories":[null,[3,2]]}"#,
                "categories of input 1 do not ascend",
            ),
            (
                r#"{"format":2,"edges":[[0,1],[0,1]],"categories":[null,[2]]}"#,
                "input 1 has edges and categories",
            ),
            (
                r#"{"format":1,"edges":[[0,1],[]],"categories":[null,[2]]}"#,
                "format 1 has no categories",
            ),
        ] {
            let error = serde_json::from_str::<Encoder>(bad).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }
}
