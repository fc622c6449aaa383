//! The template language of bundles: Tera with a closed set of functions, in which a value can
//! never become YAML syntax. `bundles/README.md` describes it for authors.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use serde_json::Value;
use tera::{Context, Kwargs, State, Tera, TeraResult};

/// Most that one template may write; a complete Flux installation is about 40 KiB.
const MAX_OUTPUT: usize = 4 << 20;

/// Filters of Tera whose output is taken as it is, without escaping. In HTML that is their purpose; in YAML it
/// would let a value become syntax.
const REFUSED_FILTERS: [&str; 5] = ["safe", "escape", "escape_html", "escape_xml", "newlines_to_br"];

/// The parsed templates of a bundle.
pub(super) struct Templates {
    tera: Tera,
    names: Vec<String>,
}

impl fmt::Debug for Templates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

impl Templates {
    /// Parses templates by name. Syntax errors, unknown filters and functions, missing includes and cycles are
    /// found here, before any cluster is involved.
    pub(super) fn parse(files: &BTreeMap<String, String>) -> Result<Self, String> {
        for (name, text) in files {
            check_placement(text).map_err(|(line, problem)| format!("templates/{name}:{line}: {problem}"))?;
        }
        let mut tera = Tera::new();
        tera.autoescape_on([".yaml"]);
        tera.set_escape_fn(escape);
        tera.register_filter("json", json);
        for name in REFUSED_FILTERS {
            tera.register_filter(name, |_: tera::Value, _: Kwargs, _: &State| -> TeraResult<tera::Value> {
                Err(tera::Error::message(
                    "filters that switch escaping off are not allowed; use `json` for lists and maps",
                ))
            });
        }
        // Without it a loop can only go over what is given, so no template can run for ever.
        tera.register_function("range", |_: Kwargs, _: &State| -> TeraResult<tera::Value> {
            Err(tera::Error::message("range is not allowed; loop over a list of `values`"))
        });
        // A partial is put into a line, so the newline at its end is not part of it.
        let trimmed =
            |name: &str, text: &'_ str| if is_partial(name) { text.trim_end().to_owned() } else { text.to_owned() };
        tera.add_raw_templates(files.iter().map(|(name, text)| (name.as_str(), trimmed(name, text))))
            .map_err(|error| describe(&error))?;
        // A component can call itself without end, which would overflow the stack.
        if let Some(name) = tera.get_component_names().next() {
            return Err(format!(
                "templates/: component {name} is not allowed; use `include` of a file whose name starts with `_`"
            ));
        }
        Ok(Self { tera, names: files.keys().cloned().collect() })
    }

    /// Names of the templates that are rendered by themselves, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| !is_partial(name))
    }

    /// Whether there is a template of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    /// Renders one template.
    pub(super) fn render(&self, name: &str, context: &Context) -> Result<String, String> {
        let mut output = Capped(Vec::new());
        self.tera.render_to(name, context, &mut output).map_err(|error| describe(&error))?;
        String::from_utf8(output.0).map_err(|_| "output is not UTF-8".to_owned())
    }
}

/// Templates whose name starts with `_` are there to be included by others.
fn is_partial(name: &str) -> bool {
    name.starts_with('_')
}

/// Tera's report without the copy of the source line: `templates/a.yaml:3:7: what is wrong`.
fn describe(error: &tera::Error) -> String {
    use tera::ErrorKind::{RenderingError, SyntaxError};
    let text = match error.kind() {
        SyntaxError(report) | RenderingError(report) => {
            let at = report.span();
            format!("templates/{}:{}:{}: {}", report.filename(), at.start_line, at.start_col + 1, report.message())
        }
        _ => error.to_string(),
    };
    let mut source = std::error::Error::source(error);
    let mut text = text;
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Stops a template that would fill the memory.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("output is longer than the {MAX_OUTPUT} bytes allowed")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a text as a YAML double-quoted scalar.
fn escape(text: &str, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(quote(&Value::from(text)).as_bytes())
}

/// JSON that is also YAML: what YAML does not allow raw, or reads as a line break, is escaped.
fn quote(value: &Value) -> String {
    let json = value.to_string();
    if !json.chars().any(unprintable) {
        return json;
    }
    // Such characters can only be inside strings, where an escape is allowed.
    json.chars().fold(String::with_capacity(json.len() + 16), |mut text, char| {
        if unprintable(char) {
            // Writing into a String cannot fail.
            let _ = fmt::Write::write_fmt(&mut text, format_args!("\\u{:04x}", u32::from(char)));
        } else {
            text.push(char);
        }
        text
    })
}

fn unprintable(char: char) -> bool {
    matches!(char, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// `{{ list | json }}`: a value as JSON, which is YAML on one line.
fn json(value: &tera::Value, _: Kwargs, _: &State) -> TeraResult<tera::Value> {
    let value = serde_json::to_value(value)
        .map_err(|error| tera::Error::message(format!("cannot be written as JSON: {error}")))?;
    Ok(tera::Value::safe_string(&quote(&value)))
}

/// A value is written as a complete quoted scalar, so it has to stand where a complete scalar may stand:
/// `app-{{ name }}` would become `app-"x"`. Finding that here gives a better message than a YAML error, or than
/// quotes inside a text that nobody sees.
fn check_placement(text: &str) -> Result<(), (usize, String)> {
    let mut from = 0;
    while let Some(found) = text[from..].find("{{") {
        let start = from + found;
        let line = text[..start].matches('\n').count() + 1;
        let end = text[start..].find("}}").map_or(text.len(), |length| start + length + 2);
        let expression = &text[start..end];
        if expression.starts_with("{{-") || expression.ends_with("-}}") {
            return Err((
                line,
                "`{{-` and `-}}` would join a value to its surroundings; write `{{` and `}}`".to_owned(),
            ));
        }
        let before = &text[text[..start].rfind('\n').map_or(0, |at| at + 1)..start];
        let after = text[end..].split('\n').next().unwrap_or_default().trim();
        let trimmed = before.trim_end();
        let starts_scalar = trimmed.is_empty()
            || trimmed.ends_with(['[', ',', '{'])
            || trimmed.ends_with("%}")
            || (before.ends_with(' ') && trimmed.ends_with([':', '-', '?']));
        let ends_scalar = after.is_empty()
            || after.starts_with([',', ']', '}', ':', '#'])
            || after.starts_with("{%")
            || after.starts_with("{#");
        if !starts_scalar || !ends_scalar {
            return Err((
                line,
                format!(
                    "{expression} stands beside other text, but is written as a complete quoted value; \
                     put the text into the expression: {{{{ \"app-\" ~ name }}}}"
                ),
            ));
        }
        from = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::yaml;

    fn render(text: &str, context: &Context) -> Result<String, String> {
        let files = BTreeMap::from([("t.yaml".to_owned(), text.to_owned())]);
        Templates::parse(&files)?.render("t.yaml", context)
    }

    #[test]
    fn values_stay_values() {
        for hostile in [
            "a: b # c",
            "x\n---\nkind: Evil",
            "{{ namespace }}",
            "{% raw %}",
            "\"",
            "'",
            "\\",
            "- a",
            "!!binary x",
            "&a",
            "*a",
            "\u{7f}\u{85}\u{2028}\u{feff}",
            "😀",
            "yes",
            "0644",
            "null",
            "",
            " ",
            "\t",
            "\r\n",
            "<&>",
            "%TAG",
            "@",
            "`",
            "\u{0}",
        ] {
            let mut context = Context::new();
            context.insert("x", hostile);
            context.insert("list", &[hostile, "b"]);
            let text =
                render("a: {{ x }}\nb: [{{ x }}, {{ list | json }}]\n{{ x ~ \"k\" }}: {{ \"pre-\" ~ x }}\n", &context)
                    .unwrap();
            assert_eq!(
                yaml::parse_one("t", &text).unwrap(),
                serde_json::json!({"a": hostile, "b": [hostile, [hostile, "b"]], (format!("{hostile}k")): format!("pre-{hostile}")}),
                "{hostile:?} became {text}"
            );
        }
    }

    #[test]
    fn numbers_and_maps_keep_their_types() {
        let mut context = Context::new();
        context.insert("m", &serde_json::json!({"n": 1, "b": true, "t": "1"}));
        let text = render("n: {{ m.n }}\nb: {{ m.b }}\nt: {{ m.t }}\nm: {{ m | json }}\n", &context).unwrap();
        assert_eq!(
            yaml::parse_one("t", &text).unwrap(),
            serde_json::json!({"n": 1, "b": true, "t": "1", "m": {"n": 1, "b": true, "t": "1"}})
        );
    }

    #[test]
    fn loops_over_maps_go_by_name() {
        let mut context = Context::new();
        let map: BTreeMap<String, usize> = (0..40).map(|n| (format!("key{n:02}"), n)).collect();
        context.insert("m", &map);
        let expected: Vec<String> = map.iter().map(|(name, n)| format!("{name}={n}")).collect();
        for _ in 0..4 {
            let text = render("{% for name, n in m %}- {{ name ~ \"=\" ~ n }}\n{% endfor %}", &context).unwrap();
            assert_eq!(yaml::parse_one("t", &text).unwrap(), serde_json::json!(expected));
        }
    }

    #[test]
    fn misplaced_expressions_are_refused() {
        for (text, line) in [
            ("a: app-{{ x }}", 1),
            ("b: 1\na: \"{{ x }}\"", 2),
            ("a: {{ x }}-b", 1),
            ("a: {{- x }}", 1),
            ("a:{{ x }}", 1),
        ] {
            let error = render(text, &Context::new()).unwrap_err();
            assert!(error.starts_with(&format!("templates/t.yaml:{line}: ")), "{error}");
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (text, expected) in [
            ("a: {{ nothing }}", "t.yaml:1:7: "),
            ("a: {{ x | nofilter }}", "t.yaml:1:"),
            ("a: {{ x | safe }}", "t.yaml:1:"),
            ("a: {{ get_env(name=\"HOME\") }}", "t.yaml:1:"),
            ("{% include \"other.yaml\" %}", "t.yaml:1:"),
            ("{% if %}", "t.yaml:1:"),
        ] {
            let mut context = Context::new();
            context.insert("x", "v");
            let error = render(text, &context).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn templates_cannot_run_for_ever() {
        let mut context = Context::new();
        context.insert("list", &vec!["some text"; 3000]);
        let endless = "{% for i in list %}{% for j in list %}{{ j }}\n{% endfor %}{% endfor %}";
        assert!(render(endless, &context).unwrap_err().contains("longer than"));
        assert!(
            render("{% for i in range(end=9) %}{% endfor %}", &context).unwrap_err().contains("range is not allowed")
        );
        let error = render("{% component x() %}{{ <x/> }}{% endcomponent x %}", &context).unwrap_err();
        assert!(error.contains("component x is not allowed"), "{error}");
    }

    #[test]
    fn can_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Templates>();
    }
}
