//! Numbers as their decimal digits say: what a text, or a number in JSON, is in a column of DECIMAL, of whole numbers or
//! of times. Topics and files read them here, so that one event has one value by whichever road it comes.
//!
//! Digits beyond a DECIMAL's scale are rounded, halves away from zero, as SQL's cast does: 1.255 is 1.26 at two digits.
//! No binary floating-point number stands in between: there 1.255 is a little less than itself, and 1.25. A column of
//! whole numbers takes 2.0 and 2e3, and no fraction. Of a time, what is beyond microseconds is cut off: the time is the
//! last microsecond that is not after it, before 1970 as well.
//!
//! Not here: DOUBLE and FLOAT, which Arrow reads, DATE (`days`), and whether a time is in other units (`units`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, PrimitiveArray, StringArray, new_null_array};
use arrow::datatypes::{
    ArrowNativeType, ArrowNativeTypeOp, ArrowPrimitiveType, DataType, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, DecimalType, Int8Type, Int16Type, Int32Type, Int64Type,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// Whether a column's numbers are what their digits say: [`numbers_of`] reads them.
#[must_use]
pub fn is_exact(data_type: &DataType) -> bool {
    data_type.is_integer() || data_type.is_decimal()
}

/// Texts as the numbers of a column that [`is_exact`]. Null where a text is no number, or one that the column cannot
/// hold; all null for a column of another type.
#[must_use]
pub fn numbers_of(texts: &StringArray, to: &DataType) -> ArrayRef {
    match to {
        DataType::Int8 => whole_numbers::<Int8Type>(texts),
        DataType::Int16 => whole_numbers::<Int16Type>(texts),
        DataType::Int32 => whole_numbers::<Int32Type>(texts),
        DataType::Int64 => whole_numbers::<Int64Type>(texts),
        DataType::UInt8 => whole_numbers::<UInt8Type>(texts),
        DataType::UInt16 => whole_numbers::<UInt16Type>(texts),
        DataType::UInt32 => whole_numbers::<UInt32Type>(texts),
        DataType::UInt64 => whole_numbers::<UInt64Type>(texts),
        DataType::Decimal32(..) => decimals::<Decimal32Type>(texts, to),
        DataType::Decimal64(..) => decimals::<Decimal64Type>(texts, to),
        DataType::Decimal128(..) => decimals::<Decimal128Type>(texts, to),
        DataType::Decimal256(..) => decimals::<Decimal256Type>(texts, to),
        _ => new_null_array(to, texts.len()),
    }
}

/// The time (µs since 1970) of a number of milliseconds since 1970; none of a text that is no number. It may be beyond
/// what a column holds.
#[must_use]
pub fn time_of_number(text: &str) -> Option<i128> {
    if let Ok(milliseconds) = text.parse::<i64>() {
        return Some(i128::from(milliseconds) * 1_000);
    }
    let number = Number::of(text)?;
    let beyond = match number.is_negative {
        true => i128::MIN,
        false => i128::MAX,
    };
    let cut = number.cut::<i128>(3, I128_DIGITS);
    Some(cut.map_or(beyond, |cut| cut.floored()))
}

fn whole_numbers<T>(texts: &StringArray) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: TryFrom<i128>,
{
    let read = |text: &str| T::Native::try_from(whole(text)?).ok();
    let numbers = texts.iter().map(|text| read(text?));
    Arc::new(numbers.collect::<PrimitiveArray<T>>())
}

pub(crate) fn whole(text: &str) -> Option<i128> {
    // So are nearly all of them, and this is the fastest way.
    if let Ok(number) = text.parse::<i64>() {
        return Some(i128::from(number));
    }
    let cut = Number::of(text)?.cut::<i128>(0, I128_DIGITS)?;
    cut.is_exact.then(|| cut.signed(cut.kept))
}

fn decimals<T: DecimalType>(texts: &StringArray, to: &DataType) -> ArrayRef {
    let (precision, scale) = match to {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => (*precision, *scale),
        _ => return new_null_array(to, texts.len()),
    };
    let numbers = texts
        .iter()
        .map(|text| decimal::<T>(text?, precision, scale));
    Arc::new(
        numbers
            .collect::<PrimitiveArray<T>>()
            .with_data_type(to.clone()),
    )
}

fn decimal<T: DecimalType>(text: &str, precision: u8, scale: i8) -> Option<T::Native> {
    let cut = Number::of(text)?.cut::<T::Native>(i64::from(scale), i64::from(precision))?;
    let rounded = cut.rounded();
    // 9.99 has as many digits as a DECIMAL(2, 1) takes, and 10.0 one more.
    T::is_valid_decimal_precision(rounded, precision).then_some(rounded)
}

/// A number's text, taken apart: `whole`.`fraction` · 10^`exponent`.
struct Number<'a> {
    is_negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

/// A number cut off behind some digit.
struct Cut<N> {
    is_negative: bool,
    /// The digits before the cut.
    kept: N,
    /// Whether those behind it are half of the last one before it, or more.
    is_half_or_more: bool,
    /// Whether there is nothing but noughts behind it.
    is_exact: bool,
}

/// So many digits fit in an `i128`, whichever they are.
const I128_DIGITS: i64 = 38;

/// An exponent that leaves no number of any column's digits in its range; the digits of a message are fewer.
const FAR: i64 = 1 << 40;

impl<'a> Number<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (is_negative, rest) = without_sign(text.as_bytes().trim_ascii());
        let (whole, rest) = digits(rest);
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => digits(rest),
            _ => (&rest[..0], rest),
        };
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => exponent(rest)?,
            _ => return None,
        };
        let is_number = !whole.is_empty() || !fraction.is_empty();
        is_number.then_some(Self {
            is_negative,
            whole,
            fraction,
            exponent,
        })
    }

    /// Cuts the number off `scale` digits behind its point. None where more than `most` digits are before the cut.
    fn cut<N: ArrowNativeTypeOp>(&self, scale: i64, most: i64) -> Option<Cut<N>> {
        let digits = self.whole.iter().chain(self.fraction).copied();
        let mut digits = digits.skip_while(|digit| *digit == b'0');
        // How many of them are before the cut; below 0 where noughts stand between it and the first.
        let before = match digits.clone().count() {
            0 => 0,
            count => count as i64 - self.fraction.len() as i64 + self.exponent + scale,
        };
        if before > most {
            return None;
        }
        let ten = <N as ArrowNativeType>::usize_as(10);
        let value = |digit: u8| <N as ArrowNativeType>::usize_as(usize::from(digit - b'0'));
        let kept = digits
            .by_ref()
            .chain(std::iter::repeat(b'0'))
            .take(usize::try_from(before).unwrap_or(0))
            .fold(N::ZERO, |kept, digit| {
                kept.mul_wrapping(ten).add_wrapping(value(digit))
            });
        Some(Cut {
            is_negative: self.is_negative,
            kept,
            is_half_or_more: before >= 0
                && digits.clone().next().is_some_and(|digit| digit >= b'5'),
            is_exact: digits.all(|digit| digit == b'0'),
        })
    }
}

impl<N: ArrowNativeTypeOp> Cut<N> {
    /// The nearest number, halves away from zero.
    fn rounded(&self) -> N {
        let size = match self.is_half_or_more {
            true => self.kept.add_wrapping(N::ONE),
            false => self.kept,
        };
        self.signed(size)
    }

    /// The largest number that is not above it.
    fn floored(&self) -> N {
        let size = match self.is_negative && !self.is_exact {
            true => self.kept.add_wrapping(N::ONE),
            false => self.kept,
        };
        self.signed(size)
    }

    fn signed(&self, size: N) -> N {
        match self.is_negative {
            true => size.neg_wrapping(),
            false => size,
        }
    }
}

fn without_sign(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    }
}

/// The digits with which a text begins, and what is behind them.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// What stands behind an `e`.
fn exponent(text: &[u8]) -> Option<i64> {
    let (is_negative, text) = without_sign(text);
    let (size, rest) = digits(text);
    if size.is_empty() || !rest.is_empty() {
        return None;
    }
    let size = size.iter().fold(0_i64, |size, digit| {
        (size * 10 + i64::from(digit - b'0')).min(FAR)
    });
    Some(if is_negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::AsArray;

    use super::*;

    /// The text of what a DECIMAL column makes of a text.
    fn decimal_of(text: &str, precision: u8, scale: i8) -> Option<String> {
        let to = DataType::Decimal128(precision, scale);
        let read = numbers_of(&StringArray::from(vec![text]), &to);
        assert_eq!(read.data_type(), &to);
        let read = read.as_primitive::<Decimal128Type>();
        read.is_valid(0).then(|| read.value_as_string(0))
    }

    #[test]
    fn digits_beyond_the_scale_are_rounded_halves_away_from_zero() {
        let check = |text: &str, expected: &str| {
            let read = decimal_of(text, 12, 2);
            assert_eq!(read.as_deref(), Some(expected), "{text}");
        };
        check("1.255", "1.26");
        check("-1.255", "-1.26");
        check(
            "1.2549999999999999999999999999999999999999999999999",
            "1.25",
        );
        check("-1.259", "-1.26");
        check("1.2", "1.20");
        check("7", "7.00");
        check("+7.", "7.00");
        check(".5", "0.50");
        check(" 0.005 ", "0.01");
        check("0.0049", "0.00");
        check("0.000999", "0.00");
        check("-0.0049", "0.00");
        check("-0", "0.00");
        check("1.5e3", "1500.00");
        check("1.5E+3", "1500.00");
        check("12345e-5", "0.12");
        check("5e-3", "0.01");
        check("5e-4", "0.00");
        check("9e-4", "0.00");
        check("1e-99999999999999999999999", "0.00");
        check("0e99999999999999999999999", "0.00");
        check("0.00000000000000000000000000000000000000012e41", "12.00");
        check("00000000000000000000000000000000000000000001.5", "1.50");
        check("9999999999.994", "9999999999.99");
    }

    #[test]
    fn what_is_no_number_or_too_large_after_rounding_is_null() {
        for text in [
            "9999999999.995",
            "10000000000",
            "-9999999999.995",
            "1e10",
            "1e99999999999999999999999",
            "",
            " ",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "1e5.0",
            "--1",
            "1-2",
            "1.2.3",
            "1,5",
            "1 5",
            "0x10",
            "1_000",
            "NaN",
            "inf",
            "true",
            "much",
        ] {
            assert_eq!(decimal_of(text, 12, 2), None, "{text}");
        }
        assert_eq!(decimal_of("9.95", 2, 1), None);
        assert_eq!(decimal_of("9.94", 2, 1).as_deref(), Some("9.9"));
    }

    #[test]
    fn whole_numbers_are_taken_and_fractions_are_not() {
        let read = |text: &str, to: &DataType| {
            let read = numbers_of(&StringArray::from(vec![text]), to);
            assert_eq!(read.data_type(), to);
            let read = arrow::compute::cast(&read, &DataType::Decimal128(38, 0)).unwrap();
            let read = read.as_primitive::<Decimal128Type>();
            read.is_valid(0).then(|| read.value(0))
        };
        let check = |text: &str, expected: Option<i128>| {
            assert_eq!(read(text, &DataType::Int64), expected, "{text}");
        };
        check("7", Some(7));
        check("-7", Some(-7));
        check("+7", Some(7));
        check(" 7 ", Some(7));
        check("-0", Some(0));
        check("2.0", Some(2));
        check("2.", Some(2));
        check("-0.0", Some(0));
        check("2e3", Some(2_000));
        check("2.5e1", Some(25));
        check("2000e-3", Some(2));
        check("9007199254740993.0", Some(9_007_199_254_740_993));
        check("9223372036854775807", Some(i128::from(i64::MAX)));
        check("9.223372036854775807e18", Some(i128::from(i64::MAX)));
        check("-9223372036854775808", Some(i128::from(i64::MIN)));
        for refused in [
            "1.7",
            "-1.7",
            "0.5",
            "1e-1",
            "1e-99999999999999999999999",
            "9223372036854775808",
            "-9223372036854775809",
            "9.223372036854775808e18",
            "99999999999999999999",
            "1e99",
            "1e99999999999999999999999",
            "",
            "NaN",
            "true",
            "0x10",
            "seven",
        ] {
            check(refused, None);
        }
        assert_eq!(read("32767", &DataType::Int16), Some(32_767));
        assert_eq!(read("32768", &DataType::Int16), None);
        assert_eq!(read("-1", &DataType::UInt32), None);
        let most = u64::MAX.to_string();
        assert_eq!(read(&most, &DataType::UInt64), Some(i128::from(u64::MAX)));
    }

    #[test]
    fn a_time_is_the_last_microsecond_that_is_not_after_it() {
        let check = |text: &str, expected: Option<i128>| {
            assert_eq!(time_of_number(text), expected, "{text}");
        };
        check("1600000000123", Some(1_600_000_000_123_000));
        check("1600000000123.251", Some(1_600_000_000_123_251));
        check("1600000000123.2519", Some(1_600_000_000_123_251));
        check("1.6e12", Some(1_600_000_000_000_000));
        check("-1", Some(-1_000));
        check("0.0005", Some(0));
        check("-0.0005", Some(-1));
        check("-1.0005", Some(-1_001));
        check("-1.000", Some(-1_000));
        check("99999999999999999999", Some(99_999_999_999_999_999_999_000));
        check("1e99", Some(i128::MAX));
        check("-1e99", Some(i128::MIN));
        check("2020-09-13", None);
        check("12:30", None);
        check("NaN", None);
        check("", None);
    }

    #[test]
    fn all_digits_of_the_widest_columns_are_kept() {
        let nines = "9".repeat(38);
        assert_eq!(decimal_of(&nines, 38, 0).as_ref(), Some(&nines));
        assert_eq!(decimal_of(&format!("{nines}.5"), 38, 0), None);
        let to = DataType::Decimal256(76, 2);
        let text = format!("-{}.985", "9".repeat(74));
        let read = numbers_of(&StringArray::from(vec![text.as_str()]), &to);
        let read = read.as_primitive::<Decimal256Type>();
        assert_eq!(read.value_as_string(0), format!("-{}.99", "9".repeat(74)));
    }
}
