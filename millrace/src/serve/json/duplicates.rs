//! Names that stand twice in one object of a request: which of their values was meant, nobody knows.
//!
//! A field may be called as in JSON or as in the `.proto` file, so that two names may be one field's.

use std::collections::HashSet;
use std::fmt;

use prost_reflect::Kind;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Passes over JSON for a value of some type, as far as that is known, and fails at the first name that is there twice.
pub(super) struct Unique(pub(super) Option<Kind>);

impl Unique {
    /// What a name in an object stands for: the field by its one name, and its type.
    fn field(&self, name: &str) -> (String, Option<Kind>) {
        let known = match &self.0 {
            Some(Kind::Message(entry)) if entry.is_map_entry() => {
                let kind = entry.map_entry_value_field().kind();
                return (name.to_owned(), Some(kind));
            }
            Some(Kind::Message(message)) => message
                .get_field_by_json_name(name)
                .or_else(|| message.get_field_by_name(name)),
            _ => None,
        };
        match known {
            Some(field) => (field.json_name().to_owned(), Some(field.kind())),
            None => (name.to_owned(), None),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match matches!(self.0, Some(Kind::Message(_)) | None) {
            true => deserializer.deserialize_any(self),
            // No name is in there: a list of ten thousand keys is passed over without reading its values again.
            false => {
                let passed = deserializer.deserialize_ignored_any(IgnoredAny);
                passed.map(|_| ())
            }
        }
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = object.next_key::<String>()? {
            let (field, kind) = self.field(&name);
            if !seen.insert(field) {
                return Err(A::Error::custom(format!("'{name}' is given twice")));
            }
            object.next_value_seed(Self(kind))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Self(self.0.clone()))?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}
