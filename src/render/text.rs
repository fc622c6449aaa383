//! Small helpers for messages.

/// `a, b, c`, cut after twelve entries.
pub(crate) fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    const MOST: usize = 12;
    let items: Vec<T> = items.into_iter().collect();
    let text = items.iter().take(MOST).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    match items.len() {
        0 => "none".to_owned(),
        1..=MOST => text,
        many => format!("{text} and {} more", many - MOST),
    }
}

/// A text of at most `most` characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// The candidate that is most like a text, to say "did you mean".
pub(crate) fn nearest(text: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    candidates.into_iter().min_by_key(|candidate| distance(text, candidate))
}

/// The candidate that a text is probably a slip of the pen for.
pub(crate) fn meant(text: &str, candidates: impl IntoIterator<Item = String>) -> Option<String> {
    // Two letters that changed places are two edits.
    let length = text.chars().count();
    let most = if length < 4 { 1 } else { (length / 3).max(2) };
    nearest(text, candidates).filter(|near| distance(text, near) <= most)
}

/// `; did you mean this?`
pub(crate) fn did_you_mean(near: Option<String>) -> String {
    near.map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// Number of single letter edits between two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(200).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(200).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = corner + usize::from(from != *to);
            corner = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found() {
        let names = ["source-controller", "helm-controller"].map(str::to_owned);
        assert_eq!(nearest("sourcecontroler", names).as_deref(), Some("source-controller"));
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("x", []), None);
        let stages = || ["canary", "early", "rest"].map(str::to_owned);
        assert_eq!(did_you_mean(meant("cannary", stages())), "; did you mean canary?");
        assert_eq!(did_you_mean(meant("rset", stages())), "; did you mean rest?");
        assert_eq!(did_you_mean(meant("production", stages())), "");
    }

    #[test]
    fn lists_and_texts_are_bounded() {
        assert_eq!(list(["a", "b"]), "a, b");
        assert_eq!(list((0..14).map(|i| i.to_string())), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more");
        assert_eq!(list::<&str>([]), "none");
        assert_eq!(cut("abcdef", 4), "abc…");
    }
}
