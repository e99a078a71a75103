//! What a token lets its holder do, and what each method needs.
//!
//! The two tables of access control stand here: the names of the scopes and [`needed_by`]. Whether a token is to be
//! believed is `tokens`' and `jwt`'s.

use std::fmt;
use std::str::FromStr;

/// Right to a part of the services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// `features`: look-ups in every view.
    AllViews,
    /// `features:<view>`: look-ups in one view.
    View(String),
    /// `score`
    Score,
    /// `models:read`
    ReadModels,
    /// `models`: read and manage.
    Models,
    /// `admin`: everything.
    Admin,
}

/// The names, but for `features:<view>`.
const NAMES: [(&str, Scope); 5] = [
    ("features", Scope::AllViews),
    ("score", Scope::Score),
    ("models:read", Scope::ReadModels),
    ("models", Scope::Models),
    ("admin", Scope::Admin),
];

const OF_A_VIEW: &str = "features:";

impl FromStr for Scope {
    type Err = String;

    /// # Errors
    /// A name that is none, with the nearest one.
    fn from_str(text: &str) -> Result<Self, String> {
        let named = NAMES.iter().find(|(name, _)| *name == text);
        if let Some((_, scope)) = named {
            return Ok(scope.clone());
        }
        match text.strip_prefix(OF_A_VIEW) {
            Some("") => Err("'features:' lacks the view's name".to_owned()),
            Some(view) => Ok(Self::View(view.to_owned())),
            None => Err(format!("there is no scope '{text}': {}", nearest(text))),
        }
    }
}

/// "did you mean 'x'?" where a scope is close, else the list of them.
fn nearest(wrong: &str) -> String {
    let mut names: Vec<String> = NAMES.iter().map(|(name, _)| (*name).to_owned()).collect();
    if let Some((_, view)) = wrong.split_once(':') {
        names.push(format!("{OF_A_VIEW}{view}"));
    }
    let distance = |name: &String| strsim::damerau_levenshtein(name, &wrong.to_lowercase());
    match names.iter().min_by_key(|name| distance(name)) {
        Some(name) if distance(name) <= 1 + wrong.len() / 4 => format!("did you mean '{name}'?"),
        _ => "there are features, features:<view>, score, models:read, models and admin".to_owned(),
    }
}

/// What a method asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: who cannot show a token may call it too.
    Nothing,
    /// A valid token.
    Token,
    /// Look-ups in at least one view. The method checks the view that it is asked for.
    SomeView,
    /// Scores.
    Score,
    /// What the registry holds.
    ReadModels,
    /// Changes of what the registry holds.
    Models,
    /// Everything else.
    Admin,
}

/// What the method at a path (`/package.Service/Method`) needs. One that is not in this table needs `admin`, so that a
/// new method is closed until somebody has thought about it.
pub(crate) fn needed_by(path: &str) -> Need {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    match (service, method) {
        ("grpc.health.v1.Health", _) => Need::Nothing,
        ("grpc.reflection.v1.ServerReflection", _) => Need::Token,
        ("grpc.reflection.v1alpha.ServerReflection", _) => Need::Token,
        ("millrace.v1.FeatureService", _) => Need::SomeView,
        ("millrace.v1.ScoringService", _) => Need::Score,
        ("millrace.v1.ModelService", "ListModels" | "GetModel") => Need::ReadModels,
        ("millrace.v1.ModelService", _) => Need::Models,
        (_, "Push" | "WriteToOnlineStore") => Need::Admin,
        ("feast.serving.ServingService" | "GrpcFeatureServer", _) => Need::SomeView,
        _ => Need::Admin,
    }
}

/// Whether calls of the method at a path go on for as long as the caller likes: each of its messages asks for something
/// new, so the token is looked at again. One that is answered with a stream asks once.
pub(crate) fn goes_on(path: &str) -> bool {
    path == "/millrace.v1.ScoringService/ScoreStream"
}

impl Need {
    /// Whether one of the scopes is enough.
    pub(super) fn is_met_by(self, scopes: &[Scope]) -> bool {
        matches!(self, Self::Nothing | Self::Token) || scopes.iter().any(|scope| scope.meets(self))
    }
}

impl Scope {
    fn meets(&self, need: Need) -> bool {
        match self {
            Self::Admin => true,
            Self::AllViews | Self::View(_) => need == Need::SomeView,
            Self::Score => need == Need::Score,
            Self::ReadModels => need == Need::ReadModels,
            Self::Models => matches!(need, Need::ReadModels | Need::Models),
        }
    }
}

/// The scope that is asked for, as a token names it, with quotation marks.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing | Self::Token => "none",
            Self::SomeView => "'features' or 'features:<view>'",
            Self::Score => "'score'",
            Self::ReadModels => "'models:read'",
            Self::Models => "'models'",
            Self::Admin => "'admin'",
        })
    }
}
