//! The few calls of MLflow's REST API that are needed. Each may be made again: what is there already is found.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use reqwest::blocking::{Client as Http, RequestBuilder};
use serde_json::{Value as Json, json};
use url::Url;

use crate::failure::with_causes;

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// There is nothing of that name.
    #[error("{0}")]
    Missing(String),
    /// What was sent will never be taken.
    #[error("{0}")]
    Refused(String),
    /// It may be, later.
    #[error("{0}")]
    Away(String),
}

/// A server of MLflow.
pub(super) struct Client {
    http: Http,
    api: Url,
    credentials: Credentials,
}

/// Who calls.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    /// A token that is sent with each call.
    pub(super) token: Option<String>,
    /// Of MLflow's own access control.
    pub(super) user: Option<(String, String)>,
}

/// A run, as it was found or made.
pub(super) struct Run {
    pub(super) id: String,
    pub(super) is_finished: bool,
}

impl Client {
    /// A client of the server at `tracking_uri`. No call is made.
    pub(super) fn new(tracking_uri: &Url, credentials: Credentials) -> Result<Self, String> {
        let base = format!(
            "{}/api/2.0/mlflow/",
            tracking_uri.as_str().trim_end_matches('/')
        );
        let http = Http::builder().timeout(TIMEOUT).build();
        Ok(Self {
            http: http.map_err(|e| with_causes(&e))?,
            api: Url::parse(&base).map_err(|e| e.to_string())?,
            credentials,
        })
    }

    /// The experiment of a name, made if there is none.
    pub(super) fn experiment(&self, name: &str) -> Result<String, CallError> {
        let find = || {
            let found = self.get("experiments/get-by-name", &[("experiment_name", name)])?;
            text(&found["experiment"]["experiment_id"])
        };
        match find() {
            Err(CallError::Missing(_)) => {
                match self.post("experiments/create", &json!({ "name": name })) {
                    Ok(made) => text(&made["experiment_id"]),
                    // Another process was faster.
                    Err(CallError::Refused(_)) => find(),
                    Err(error) => Err(error),
                }
            }
            other => other,
        }
    }

    /// The run of an experiment that has all of some tags, whose values have no quotation marks.
    pub(super) fn run_with_tags(
        &self,
        experiment: &str,
        tags: &BTreeMap<&str, String>,
    ) -> Result<Option<Run>, CallError> {
        let has = |(tag, value): (&&str, &String)| format!("tags.`{tag}` = '{value}'");
        let filter: Vec<String> = tags.iter().map(has).collect();
        let query = json!({
            "experiment_ids": [experiment],
            "filter": filter.join(" and "),
            "max_results": 1,
        });
        let found = self.post("runs/search", &query)?;
        let Some(run) = found["runs"].get(0) else {
            return Ok(None);
        };
        Ok(Some(Run {
            id: text(&run["info"]["run_id"])?,
            is_finished: run["info"]["status"] == "FINISHED",
        }))
    }

    /// Makes a run.
    pub(super) fn create_run(
        &self,
        experiment: &str,
        name: &str,
        start_ms: i64,
        tags: &Json,
    ) -> Result<Run, CallError> {
        let run = json!({
            "experiment_id": experiment,
            "run_name": name,
            "start_time": start_ms,
            "tags": tags,
        });
        let made = self.post("runs/create", &run)?;
        Ok(Run {
            id: text(&made["run"]["info"]["run_id"])?,
            is_finished: false,
        })
    }

    /// Adds to a run; what is there already stays.
    pub(super) fn log(
        &self,
        run: &str,
        metrics: &Json,
        params: &Json,
        tags: &Json,
    ) -> Result<(), CallError> {
        let batch = json!({ "run_id": run, "metrics": metrics, "params": params, "tags": tags });
        self.post("runs/log-batch", &batch).map(|_| ())
    }

    pub(super) fn finish_run(&self, run: &str, end_ms: i64) -> Result<(), CallError> {
        let end = json!({ "run_id": run, "status": "FINISHED", "end_time": end_ms });
        self.post("runs/update", &end).map(|_| ())
    }

    /// The tag of a registered model, which is made if there is none.
    pub(super) fn model_tag(&self, model: &str, key: &str) -> Result<Option<String>, CallError> {
        let find = || self.get("registered-models/get", &[("name", model)]);
        let found = match find() {
            Err(CallError::Missing(_)) => {
                match self.post("registered-models/create", &json!({ "name": model })) {
                    Ok(_) | Err(CallError::Refused(_)) => find()?,
                    Err(error) => return Err(error),
                }
            }
            other => other?,
        };
        let tags = found["registered_model"]["tags"].as_array();
        let tag = tags.into_iter().flatten().find(|tag| tag["key"] == key);
        Ok(tag.and_then(|tag| tag["value"].as_str()).map(str::to_owned))
    }

    pub(super) fn set_model_tag(
        &self,
        model: &str,
        key: &str,
        value: &str,
    ) -> Result<(), CallError> {
        let tag = json!({ "name": model, "key": key, "value": value });
        self.post("registered-models/set-tag", &tag).map(|_| ())
    }

    /// The version of a registered model that came from a run, made if there is none.
    pub(super) fn model_version(
        &self,
        model: &str,
        run: &str,
        source: &str,
        tags: &Json,
    ) -> Result<String, CallError> {
        let filter = format!("name='{}' and run_id='{run}'", model.replace('\'', ""));
        let found = self.get("model-versions/search", &[("filter", &filter)])?;
        if let Some(version) = found["model_versions"].get(0) {
            return text(&version["version"]);
        }
        let version = json!({ "name": model, "source": source, "run_id": run, "tags": tags });
        let made = self.post("model-versions/create", &version)?;
        text(&made["model_version"]["version"])
    }

    /// Gives an alias of a registered model to a version, or to none.
    pub(super) fn set_alias(
        &self,
        model: &str,
        alias: &str,
        version: Option<&str>,
    ) -> Result<(), CallError> {
        let path = "registered-models/alias";
        let body = match version {
            Some(version) => json!({ "name": model, "alias": alias, "version": version }),
            None => json!({ "name": model, "alias": alias }),
        };
        let method = match version {
            Some(_) => Method::POST,
            None => Method::DELETE,
        };
        match self.answer(self.request(method, path)?.json(&body)) {
            // There is none to take away.
            Err(CallError::Missing(_)) if version.is_none() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Json, CallError> {
        let mut url = self.url(path)?;
        url.query_pairs_mut().extend_pairs(query);
        self.answer(self.authorized(self.http.get(url)))
    }

    fn post(&self, path: &str, body: &Json) -> Result<Json, CallError> {
        self.answer(self.request(Method::POST, path)?.json(body))
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, CallError> {
        Ok(self.authorized(self.http.request(method, self.url(path)?)))
    }

    fn url(&self, path: &str) -> Result<Url, CallError> {
        let url = self.api.join(path);
        url.map_err(|e| CallError::Refused(format!("{path}: {e}")))
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.credentials {
            Credentials {
                token: Some(token), ..
            } => request.bearer_auth(token),
            Credentials {
                user: Some((user, password)),
                ..
            } => request.basic_auth(user, Some(password)),
            _ => request,
        }
    }

    fn answer(&self, request: RequestBuilder) -> Result<Json, CallError> {
        let away = |error: reqwest::Error| CallError::Away(with_causes(&error));
        let response = request.send().map_err(away)?;
        let (status, url) = (response.status(), response.url().clone());
        let body = response.text().map_err(away)?;
        let json: Json = serde_json::from_str(&body).unwrap_or(Json::Null);
        if status.is_success() {
            return Ok(json);
        }
        let code = json["error_code"].as_str().unwrap_or_default();
        let message = json["message"].as_str().unwrap_or(&body);
        let said: String = message.chars().take(300).collect();
        let said = format!("{} answered {status} {code}: {said}", url.path());
        Err(match (status.as_u16(), code) {
            (_, "RESOURCE_DOES_NOT_EXIST") => CallError::Missing(said),
            (400, _) => CallError::Refused(said),
            _ => CallError::Away(said),
        })
    }
}

fn text(value: &Json) -> Result<String, CallError> {
    match value {
        Json::String(text) => Ok(text.clone()),
        Json::Number(number) => Ok(number.to_string()),
        other => Err(CallError::Away(format!(
            "an answer has {other} in place of a name"
        ))),
    }
}
