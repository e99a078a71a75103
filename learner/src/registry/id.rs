//! What tells a registry from every other one: versions have the same numbers in all of them.

use serde::{Deserialize, Serialize};

use super::{Registry, damaged};
use crate::error::LearnerError;

const FILE: &str = "id.json";

#[derive(Serialize, Deserialize)]
struct Id {
    id: String,
}

impl Registry {
    /// What tells this registry from every other one, wherever it lies: letters and digits. One that has no id yet
    /// has `fresh` from now on; of processes that give it one at once, all get the first one's.
    ///
    /// # Errors
    /// As [`Registry::aliases`], and those of a store that cannot be written where there is no id yet.
    pub fn id(&self, fresh: &str) -> Result<String, LearnerError> {
        if let Some(found) = self.found_id()? {
            return Ok(found);
        }
        self.refreshed()?.check_store(&self.objects)?;
        let text = serde_json::to_vec(&Id {
            id: fresh.to_owned(),
        });
        let text = text.map_err(|e| LearnerError::Bug(e.to_string()))?;
        self.objects.create(FILE, &text)?;
        let lost = || damaged(self.objects.full(FILE), "it was removed".to_owned());
        self.found_id()?.ok_or_else(lost)
    }

    fn found_id(&self) -> Result<Option<String>, LearnerError> {
        let Some(text) = self.objects.get(FILE)? else {
            return Ok(None);
        };
        let wrong = |reason: String| damaged(self.objects.full(FILE), reason);
        let Id { id } = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        // It becomes a part of names and of filters elsewhere.
        match !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            true => Ok(Some(id)),
            false => Err(wrong(format!(
                "{id:?} is no id: letters and digits are one"
            ))),
        }
    }
}
