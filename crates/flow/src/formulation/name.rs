//! The paper's names of formulations: reading, writing, and what to say of one that is none.

use std::fmt;

use super::Formulation;
use super::density::{Density, MODE_SCALE_MAX};

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Name {
    Rf,
    RfMode { scale: f64 },
    RfLogitNormal { mean: f64, std: f64 },
    RfCosMap,
    Edm { mean: f64, std: f64 },
    EdmRf,
    EdmCos,
    NoiseLinear,
    VLinear,
    NoiseCosine,
    VCosine,
}

/// There is no such formulation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormulationError {
    /// The name is of none.
    #[error(
        "`{name}` is not a formulation; the nearest are {}\n\
         hint: `rectiflow formulations` lists the paper's; other numbers are possible in rf/lognorm(MEAN,STD), \
         rf/mode(SCALE) and edm(MEAN,STD)",
        .nearest.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// The paper's names that are most like it.
        nearest: Vec<String>,
    },
    /// The name is of a family, with other parameters than it takes.
    #[error("`{name}` does not have the parameters of `{form}`: give {bounds}")]
    Parameters {
        /// What was asked for.
        name: String,
        /// How the family's names are written.
        form: &'static str,
        /// What parameters are possible.
        bounds: String,
    },
    /// Its levels are fixed, so they cannot be shifted.
    #[error(
        "the 1000 levels of {name} cannot be shifted\nhint: give a shift of 1, or a formulation with continuous time"
    )]
    FixedLevels {
        /// The formulation.
        name: String,
    },
    /// The shift divides by zero or turns levels negative.
    #[error("a shift of {shift} is not possible: give a finite number above 0 (SD3 models use 3 at 1024x1024)")]
    Shift {
        /// The shift asked for.
        shift: f64,
    },
}

/// Names without parameters.
const PLAIN: [(&str, Name); 8] = [
    ("rf", Name::Rf),
    ("rf/cosmap", Name::RfCosMap),
    ("edm/rf", Name::EdmRf),
    ("edm/cos", Name::EdmCos),
    ("eps/linear", Name::NoiseLinear),
    ("v/linear", Name::VLinear),
    ("eps/cos", Name::NoiseCosine),
    ("v/cos", Name::VCosine),
];

/// How many names an error offers.
const NEAREST: usize = 3;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Name::RfMode { scale } => f.pad(&format!("rf/mode({})", Decimals(scale))),
            Name::RfLogitNormal { mean, std } => f.pad(&format!("rf/lognorm({},{})", Decimals(mean), Decimals(std))),
            Name::Edm { mean, std } => f.pad(&format!("edm({},{})", Decimals(mean), Decimals(std))),
            _ => f.pad(PLAIN.iter().find(|(_, name)| name == self).map_or("", |(text, _)| text)),
        }
    }
}

/// A number with two decimals, as the paper prints them, or with as many as it has.
pub(super) struct Decimals(pub(super) f64);

impl fmt::Display for Decimals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = format!("{:.2}", self.0);
        if short.parse() == Ok(self.0) { f.write_str(&short) } else { write!(f, "{}", self.0) }
    }
}

impl std::str::FromStr for Name {
    type Err = FormulationError;

    fn from_str(text: &str) -> Result<Self, FormulationError> {
        let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
        if let Some((_, name)) = PLAIN.into_iter().find(|(known, _)| *known == plain) {
            return Ok(name);
        }
        let (family, parameters) = plain.split_once('(').unwrap_or((&plain, ""));
        let numbers = parameters.strip_suffix(')').and_then(numbers).unwrap_or_default();
        let refused = |form, bounds: &str| {
            Err(FormulationError::Parameters { name: text.to_owned(), form, bounds: bounds.to_owned() })
        };
        match (family, &numbers[..]) {
            ("rf/lognorm", &[mean, std]) if std > 0.0 => Ok(Name::RfLogitNormal { mean, std }),
            ("edm", &[mean, std]) if std > 0.0 => Ok(Name::Edm { mean, std }),
            ("rf/mode", &[scale]) if (-1.0..=MODE_SCALE_MAX).contains(&scale) => Ok(Name::RfMode { scale }),
            ("rf/lognorm", _) => refused("rf/lognorm(MEAN,STD)", "two finite numbers, the second above 0"),
            ("edm", _) => refused("edm(MEAN,STD)", "two finite numbers, the second above 0"),
            ("rf/mode", _) => {
                refused("rf/mode(SCALE)", &format!("a number from -1 to 2/(pi - 2), which is {MODE_SCALE_MAX:.6}"))
            }
            _ => Err(FormulationError::Unknown { name: text.to_owned(), nearest: nearest(&plain) }),
        }
    }
}

/// All the numbers between commas, if each is one and finite.
fn numbers(text: &str) -> Option<Vec<f64>> {
    // Adding 0 makes 0 of -0, so that equal formulations have equal names.
    text.split(',').map(|number| number.parse::<f64>().ok().filter(|x| x.is_finite()).map(|x| x + 0.0)).collect()
}

/// The paper's names that need the fewest letters changed.
fn nearest(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Formulation::all().iter().map(ToString::to_string).collect();
    names.sort_by_key(|name| strsim::damerau_levenshtein(name, text));
    names.truncate(NEAREST);
    names
}

impl Name {
    pub(super) fn density(self) -> Density {
        match self {
            Name::Rf | Name::EdmRf => Density::Uniform,
            Name::RfMode { scale } => Density::Mode { scale },
            Name::RfLogitNormal { mean, std } | Name::Edm { mean, std } => Density::LogitNormal { mean, std },
            Name::RfCosMap | Name::EdmCos | Name::NoiseCosine | Name::VCosine => Density::CosMap,
            Name::NoiseLinear | Name::VLinear => Density::Levels,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Formulation, FormulationError> {
        text.parse()
    }

    #[test]
    fn every_name_is_read_back() {
        for formulation in Formulation::all() {
            assert_eq!(parse(&formulation.to_string()), Ok(formulation));
        }
        for name in ["rf/mode(-0.5417)", "rf/lognorm(0.123456789,3.00)", "edm(1e-3,0.70)"] {
            let formulation = parse(name).unwrap();
            assert_eq!(parse(&formulation.to_string()), Ok(formulation), "{name}");
        }
    }

    #[test]
    fn numbers_and_blanks_may_be_written_as_one_likes() {
        for text in ["rf/lognorm(0, 1)", "RF/LogNorm(-0,1.000)", " rf/lognorm(0.00,1.00) "] {
            assert_eq!(parse(text).unwrap().to_string(), "rf/lognorm(0.00,1.00)", "{text}");
        }
    }

    #[test]
    fn impossible_parameters_are_refused_with_the_possible_ones() {
        for text in [
            "rf/mode(-1.001)",
            "rf/mode(1.752)",
            "rf/mode(nan)",
            "rf/mode()",
            "rf/mode",
            "rf/mode(1,2)",
            "rf/lognorm(0,0)",
            "rf/lognorm(0,-1)",
            "rf/lognorm(inf,1)",
            "rf/lognorm(0,1",
            "rf/lognorm(0)",
            "edm",
            "edm(0,0)",
            "edm(0,x)",
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, FormulationError::Parameters { .. }), "{text}: {error}");
            assert!(error.to_string().contains(text) && error.to_string().contains("give "), "{error}");
        }
        assert!(parse("rf/mode(-1)").is_ok() && parse(&format!("rf/mode({MODE_SCALE_MAX})")).is_ok());
    }

    #[test]
    fn an_unknown_name_comes_with_the_nearest() {
        let error = parse("rf/cosmop").unwrap_err();
        let FormulationError::Unknown { nearest, .. } = &error else { panic!("{error}") };
        assert_eq!(nearest[0], "rf/cosmap");
        assert!(
            error.to_string().starts_with("`rf/cosmop` is not a formulation; the nearest are `rf/cosmap`, "),
            "{error}"
        );
        for text in ["", "eps", "v/cosine", "rf/", "lognorm(0,1)"] {
            assert!(matches!(parse(text), Err(FormulationError::Unknown { .. })), "{text}");
        }
    }
}
