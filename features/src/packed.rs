//! Rows of columns as bytes: what a view keeps of an event, and an entity.
//!
//! Layout of a row: one bit a column (set: not null), rounded up to bytes; then each non-null value in the order
//! of the columns. Fixed-width values are little-endian; booleans one byte; strings and binaries a LEB128 length
//! and the bytes. The types come from the view, not from the row, so a row carries no tags.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, StringBuilder, make_array,
};
use arrow::buffer::{MutableBuffer, NullBuffer};
use arrow::datatypes::{DataType, Float32Type, Float64Type};

/// True for the types that a row can hold.
pub(crate) fn is_supported(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean | DataType::Utf8 | DataType::Binary
    ) || data_type.primitive_width().is_some()
}

/// Each row of `columns` as bytes, by which rows can be told apart and looked up. All columns have one length.
#[must_use]
pub fn pack_rows(columns: &[ArrayRef]) -> Vec<Vec<u8>> {
    pack(columns, columns.first().map_or(0, |column| column.len()))
}

/// As [`pack_rows`], for entities and ids: what SQL says is equal has the same bytes, so −0.0 is 0.0, and of NaN there is
/// one.
#[must_use]
pub fn pack_keys(columns: &[ArrayRef]) -> Vec<Vec<u8>> {
    if !columns
        .iter()
        .any(|column| column.data_type().is_floating())
    {
        return pack_rows(columns);
    }
    let columns: Vec<ArrayRef> = columns.iter().map(one_of_equals).collect();
    pack_rows(&columns)
}

/// A column in which numbers that are equal have the same bits; any other column as it is.
fn one_of_equals(column: &ArrayRef) -> ArrayRef {
    // These bits are stored, and those of the constants in `std` may change.
    const NAN_32: f32 = f32::from_bits(0x7fc0_0000);
    const NAN_64: f64 = f64::from_bits(0x7ff8_0000_0000_0000);
    // The sum of −0.0 and 0.0 is 0.0, and no other number changes.
    match column.data_type() {
        DataType::Float32 => {
            let one = |value: f32| if value.is_nan() { NAN_32 } else { value + 0.0 };
            let values = column.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(one))
        }
        DataType::Float64 => {
            let one = |value: f64| if value.is_nan() { NAN_64 } else { value + 0.0 };
            let values = column.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(one))
        }
        _ => Arc::clone(column),
    }
}

/// Packs all rows of `columns`.
pub(crate) fn pack(columns: &[ArrayRef], rows: usize) -> Vec<Vec<u8>> {
    let mut packed = vec![presence(columns.len()); rows];
    for (index, column) in columns.iter().enumerate() {
        for (row, bytes) in packed.iter_mut().enumerate() {
            if column.is_valid(row) {
                bytes[index / 8] |= 1 << (index % 8);
            }
        }
        pack_column(column, &mut packed);
    }
    packed
}

fn presence(columns: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(columns.div_ceil(8) + 8 * columns);
    bytes.resize(columns.div_ceil(8), 0);
    bytes
}

fn pack_column(column: &ArrayRef, packed: &mut [Vec<u8>]) {
    let valid = |row: &usize| column.is_valid(*row);
    let rows = (0..packed.len()).filter(valid);
    match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            rows.for_each(|row| packed[row].push(u8::from(values.value(row))));
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            rows.for_each(|row| push_bytes(&mut packed[row], values.value(row).as_bytes()));
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            rows.for_each(|row| push_bytes(&mut packed[row], values.value(row)));
        }
        primitive => {
            // `is_supported` has admitted this type, so it has a width.
            let width = primitive.primitive_width().unwrap_or_default();
            let data = column.to_data();
            let values = &data.buffers()[0].as_slice()[data.offset() * width..];
            rows.for_each(|row| packed[row].extend_from_slice(&values[row * width..][..width]));
        }
    }
}

fn push_bytes(row: &mut Vec<u8>, value: &[u8]) {
    let mut length = value.len();
    while length >= 0x80 {
        row.push(length as u8 | 0x80);
        length >>= 7;
    }
    row.push(length as u8);
    row.extend_from_slice(value);
}

/// Rows that [`pack_rows`] made of columns of `types`, as columns again, to the bit.
///
/// # Errors
/// What does not fit.
pub fn unpack_rows(types: &[DataType], rows: &[&[u8]]) -> Result<Vec<ArrayRef>, String> {
    unpack(types, rows)
}

/// Unpacks rows into columns of `types`; an error says what does not fit.
pub(crate) fn unpack(types: &[DataType], rows: &[&[u8]]) -> Result<Vec<ArrayRef>, String> {
    let header = types.len().div_ceil(8);
    if let Some(short) = rows.iter().find(|row| row.len() < header) {
        return Err(format!(
            "{} bytes where a header of {header} is due",
            short.len()
        ));
    }
    let mut cursors = vec![header; rows.len()];
    let columns = types
        .iter()
        .enumerate()
        .map(|(index, data_type)| unpack_column(index, data_type, rows, &mut cursors))
        .collect::<Result<Vec<_>, _>>()?;
    match rows
        .iter()
        .zip(&cursors)
        .find(|(row, cursor)| row.len() != **cursor)
    {
        Some((row, cursor)) => Err(format!("{} bytes where {cursor} are due", row.len())),
        None => Ok(columns),
    }
}

fn unpack_column(
    index: usize,
    data_type: &DataType,
    rows: &[&[u8]],
    cursors: &mut [usize],
) -> Result<ArrayRef, String> {
    let is_valid = |row: &&[u8]| row[index / 8] & (1 << (index % 8)) != 0;
    let items = rows.iter().zip(cursors.iter_mut());
    match data_type {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(rows.len());
            for (row, cursor) in items {
                let value = if is_valid(row) {
                    Some(take(row, cursor, 1)?[0] != 0)
                } else {
                    None
                };
                builder.append_option(value);
            }
            Ok(Arc::new(builder.finish()))
        }
        DataType::Utf8 => {
            let mut builder = StringBuilder::with_capacity(rows.len(), 16 * rows.len());
            for (row, cursor) in items {
                let bytes = if is_valid(row) {
                    Some(take_bytes(row, cursor)?)
                } else {
                    None
                };
                let text = bytes.map(std::str::from_utf8).transpose();
                builder.append_option(text.map_err(|e| e.to_string())?);
            }
            Ok(Arc::new(builder.finish()))
        }
        DataType::Binary => {
            let mut builder = BinaryBuilder::with_capacity(rows.len(), 16 * rows.len());
            for (row, cursor) in items {
                let bytes = if is_valid(row) {
                    Some(take_bytes(row, cursor)?)
                } else {
                    None
                };
                builder.append_option(bytes);
            }
            Ok(Arc::new(builder.finish()))
        }
        primitive => {
            let width = primitive
                .primitive_width()
                .ok_or_else(|| format!("type {primitive}"))?;
            let mut values = MutableBuffer::with_capacity(rows.len() * width);
            let mut valid = Vec::with_capacity(rows.len());
            for (row, cursor) in items {
                valid.push(is_valid(row));
                if is_valid(row) {
                    values.extend_from_slice(take(row, cursor, width)?);
                } else {
                    values.extend_zeros(width);
                }
            }
            primitive_array(primitive, rows.len(), values, valid)
        }
    }
}

fn primitive_array(
    data_type: &DataType,
    length: usize,
    values: MutableBuffer,
    valid: Vec<bool>,
) -> Result<ArrayRef, String> {
    arrow::array::ArrayData::builder(data_type.clone())
        .len(length)
        .add_buffer(values.into())
        .nulls(Some(NullBuffer::from(valid)).filter(|nulls| nulls.null_count() > 0))
        .build()
        .map(make_array)
        .map_err(|e| e.to_string())
}

fn take<'a>(row: &'a [u8], cursor: &mut usize, length: usize) -> Result<&'a [u8], String> {
    let end = cursor.checked_add(length).filter(|end| *end <= row.len());
    let end = end.ok_or_else(|| format!("the row ends at {} of {cursor}+{length}", row.len()))?;
    let bytes = &row[*cursor..end];
    *cursor = end;
    Ok(bytes)
}

fn take_bytes<'a>(row: &'a [u8], cursor: &mut usize) -> Result<&'a [u8], String> {
    let mut length = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = take(row, cursor, 1)?[0];
        length |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return take(row, cursor, usize::try_from(length).unwrap_or(usize::MAX));
        }
    }
    Err("a length of more than 5 bytes".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::*;

    fn columns() -> Vec<ArrayRef> {
        vec![
            Arc::new(Float64Array::from(vec![Some(-0.0), None, Some(f64::NAN)])),
            Arc::new(StringArray::from(vec![
                Some(""),
                Some("ü".repeat(100).as_str()),
                None,
            ])),
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            Arc::new(Int16Array::from(vec![Some(-2), None, Some(7)])),
            Arc::new(TimestampMicrosecondArray::from(vec![
                Some(-1),
                Some(i64::MAX),
                None,
            ])),
            Arc::new(BinaryArray::from_opt_vec(vec![
                None,
                Some(b"\0\xff"),
                Some(b""),
            ])),
            Arc::new(
                Decimal128Array::from(vec![Some(-5), None, Some(i128::from(i64::MAX) * 9)])
                    .with_precision_and_scale(38, 2)
                    .unwrap(),
            ),
            Arc::new(Date32Array::from(vec![None, Some(1), Some(-1)])),
            Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, None])),
        ]
    }

    #[test]
    fn rows_come_back() {
        let columns = columns();
        let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
        assert!(types.iter().all(is_supported));
        let packed = pack(&columns, 3);
        let rows: Vec<&[u8]> = packed.iter().map(Vec::as_slice).collect();
        let back = unpack(&types, &rows).unwrap();
        for (left, right) in columns.iter().zip(&back) {
            assert_eq!(left.to_data(), right.to_data());
        }
        // A sliced column starts inside its buffers.
        let tail: Vec<ArrayRef> = columns.iter().map(|c| c.slice(1, 2)).collect();
        assert_eq!(pack(&tail, 2), packed[1..]);
    }

    #[test]
    fn equal_numbers_are_one_key() {
        let odd_nan = f64::from_bits(0xfff8_0000_0000_0001);
        let wide = vec![Some(0.0), Some(-0.0), Some(odd_nan), Some(f64::NAN), None];
        let narrow = vec![Some(-0.0), Some(0.0), Some(-1.5), Some(-1.5), None];
        let texts = StringArray::from(vec!["a", "a", "a", "a", "a"]);
        let columns: [ArrayRef; 3] = [
            Arc::new(Float64Array::from(wide)),
            Arc::new(Float32Array::from(narrow)),
            Arc::new(texts),
        ];
        let keys = pack_keys(&columns);
        assert_eq!(keys[0], keys[1]);
        assert_eq!(keys[2], keys[3]);
        assert_ne!(keys[1], keys[2]);
        assert_ne!(keys[3], keys[4]);
        // Those of zeros that are not negative, and of other types, are the rows.
        let rows = pack_rows(&columns);
        assert_ne!(rows[0], keys[0]);
        assert_eq!(pack_rows(&columns[..1])[0], pack_keys(&columns[..1])[0]);
        assert_eq!(pack_rows(&columns[2..]), pack_keys(&columns[2..]));
    }

    #[test]
    fn damaged_rows_are_refused() {
        let types = [DataType::Float64, DataType::Utf8];
        let good = pack(
            &[
                Arc::new(Float64Array::from(vec![1.5])) as ArrayRef,
                Arc::new(StringArray::from(vec!["abc"])) as ArrayRef,
            ],
            1,
        );
        for length in 0..good[0].len() {
            assert!(
                unpack(&types, &[&good[0][..length]]).is_err(),
                "cut at {length}"
            );
        }
        let longer = [good[0].as_slice(), b"x"].concat();
        assert!(unpack(&types, &[&longer]).is_err());
    }

    #[test]
    fn the_layout_is_pinned() {
        let packed = pack(
            &[
                Arc::new(Int32Array::from(vec![Some(258)])) as ArrayRef,
                Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef,
                Arc::new(StringArray::from(vec!["hi"])) as ArrayRef,
            ],
            1,
        );
        assert_eq!(packed[0], [0b101, 2, 1, 0, 0, 2, b'h', b'i']);
    }
}
