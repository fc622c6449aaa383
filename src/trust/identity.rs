//! Identities of keyless signatures, as users write them.

use std::fmt;

use regex::{Regex, RegexBuilder};

use super::PolicyError;

/// The identity that a certificate has to be for: who it is, and who vouches for that.
#[derive(Debug, Clone)]
pub struct Identity {
    issuer: Pattern,
    subject: Pattern,
}

impl Identity {
    /// Each is an exact text, or an expression from `^` to `$`.
    pub fn parse(issuer: &str, subject: &str) -> Result<Self, PolicyError> {
        Ok(Self { issuer: Pattern::parse("issuer", issuer)?, subject: Pattern::parse("subject", subject)? })
    }

    /// Whether a certificate with these two is for this identity.
    pub(super) fn admits(&self, issuer: &str, subject: &str) -> bool {
        self.issuer.matches(issuer) && self.subject.matches(subject)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {:?} issuer {:?}", self.subject.text, self.issuer.text)
    }
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    /// `None`: exactly the text.
    expression: Option<Regex>,
}

/// Longer than any identity; keeps the compiled expression small too.
const LONGEST: usize = 512;

impl Pattern {
    fn parse(field: &str, text: &str) -> Result<Self, PolicyError> {
        let refuse = |why: &str| {
            PolicyError(format!(
                "{field} {text:?}: {why}; write the exact text, or an expression from ^ to $ (such as \"^https://github\\.com/acme/bundles/.+$\")"
            ))
        };
        if text.is_empty() {
            return Err(refuse("is empty"));
        }
        if text.len() > LONGEST {
            return Err(PolicyError(format!("{field}: is {} bytes long; at most {LONGEST} are allowed", text.len())));
        }
        if !(text.starts_with('^') && text.ends_with('$')) {
            // None of these can be in a Git reference, nor is any usual in an e-mail address: it was meant as an expression, which
            // elsewhere is looked for anywhere in the identity.
            let meant = text.contains(['^', '*', '\\', '[']) || text.ends_with('$');
            return if meant {
                Err(refuse("looks like an expression, but is not anchored at both ends"))
            } else {
                Ok(Self { text: text.to_owned(), expression: None })
            };
        }
        // `^a|b$` is anchored at one end of each half only; the frame anchors the whole.
        let expression = RegexBuilder::new(&format!(r"\A(?:{text})\z"))
            .size_limit(1 << 18)
            .build()
            .map_err(|_| refuse("is no valid expression, or too large a one"))?;
        // Nobody is called this.
        if expression.is_match(&"\u{fffd}".repeat(64)) {
            return Err(refuse("is an expression that anybody satisfies"));
        }
        Ok(Self { text: text.to_owned(), expression: Some(expression) })
    }

    fn matches(&self, found: &str) -> bool {
        match &self.expression {
            Some(expression) => expression.is_match(found),
            None => self.text == found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GITHUB: &str = "https://token.actions.githubusercontent.com";
    const RELEASE: &str = "https://github.com/acme/bundles/.github/workflows/release.yml@refs/tags/v1.2.3";

    #[test]
    fn texts_are_exact_and_expressions_whole() {
        for (subject, admitted) in [
            (RELEASE, true),
            (r"^https://github\.com/acme/bundles/\.github/workflows/release\.yml@refs/tags/v[0-9.]+$", true),
            (r"^https://github\.com/acme/.+$", true),
            (r"^https://github\.com/acme/bundles$", false),
            // Alternatives cannot slip out of the anchors.
            (r"^nobody|release|nobody$", false),
            (r"^(?m:nobody)|v1\.2\.3$", false),
            ("https://github.com/acme/bundles", false),
            // In a text, a dot is a dot.
            ("https://github.com/acme/bundles/xgithub/workflows/release.yml@refs/tags/v1.2.3", false),
            ("release@acme.example", false),
        ] {
            assert_eq!(Identity::parse(GITHUB, subject).unwrap().admits(GITHUB, RELEASE), admitted, "{subject}");
        }
        let identity = Identity::parse(GITHUB, RELEASE).unwrap();
        assert!(!identity.admits("https://token.actions.githubusercontent.com.evil.example", RELEASE));
        assert!(!identity.admits("", "") && !identity.admits(RELEASE, GITHUB));
    }

    #[test]
    fn expressions_that_admit_too_much_are_refused() {
        for (subject, why) in [
            ("", r#"subject "": is empty; write"#),
            ("https://github.com/acme/.*", "looks like an expression, but is not anchored at both ends; write"),
            ("^https://github.com/acme/", "looks like an expression, but is not anchored"),
            ("https://github.com/acme/x$", "looks like an expression, but is not anchored"),
            (r"https://github\.com/acme/x", "looks like an expression, but is not anchored"),
            ("^.*$", "is an expression that anybody satisfies; write"),
            ("^.+$", "is an expression that anybody satisfies; write"),
            ("^(acme|.*)$", "is an expression that anybody satisfies; write"),
            ("^($", "is no valid expression, or too large a one; write"),
            (r"^\w{1,100000}$", "is no valid expression, or too large a one; write"),
        ] {
            let error = Identity::parse(GITHUB, subject).unwrap_err().to_string();
            assert!(error.starts_with("subject ") && error.contains(why), "{error}");
        }
        let long = Identity::parse(&"a".repeat(513), RELEASE).unwrap_err();
        assert_eq!(long.to_string(), "issuer: is 513 bytes long; at most 512 are allowed");
    }
}
