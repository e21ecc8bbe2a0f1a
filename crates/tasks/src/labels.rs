//! The names of a model's classes.

/// The names of a model's classes, by index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Labels(Vec<String>);

/// Why a list of labels cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LabelsError {
    /// There is not one.
    #[error("it holds no labels; one a line is expected")]
    Empty,
    /// A label's index is beyond reason.
    #[error("line {line}: index {index} is too large")]
    Index {
        /// The line, from 1.
        line: usize,
        /// The index that it gives.
        index: usize,
    },
    /// The list is of another model.
    #[error("it holds {labels} labels, and the model has {classes} classes")]
    Count {
        /// Labels in the list.
        labels: usize,
        /// Classes of the model.
        classes: usize,
    },
}

/// Above any list of classes in the field.
const MOST: usize = 1 << 20;

impl Labels {
    /// Reads one label a line, the first for class 0; or, where every line starts with a growing
    /// number, lines `index label`. An empty line ends the list: what follows it is a remark.
    pub fn parse(text: &str) -> Result<Labels, LabelsError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().map(str::trim).skip_while(|line| line.is_empty());
        let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
        if lines.is_empty() {
            return Err(LabelsError::Empty);
        }
        let numbered: Option<Vec<(usize, &str)>> =
            lines.iter().map(|line| numbered(line)).collect();
        match numbered {
            Some(pairs) if pairs.is_sorted_by(|a, b| a.0 < b.0) => {
                let mut labels = Vec::new();
                for (line, (index, label)) in pairs.into_iter().enumerate() {
                    if index >= MOST {
                        return Err(LabelsError::Index { line: line + 1, index });
                    }
                    labels.resize(index, String::new());
                    labels.push(label.to_string());
                }
                Ok(Labels(labels))
            }
            _ => Ok(Labels(lines.into_iter().map(str::to_string).collect())),
        }
    }

    /// How many classes are named or skipped.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A class's name; `None` where it has none.
    pub fn get(&self, class: usize) -> Option<&str> {
        self.0.get(class).map(String::as_str).filter(|label| !label.is_empty())
    }

    /// The labels moved onto a model with `classes` scores. Where one of the two counts the
    /// background as class 0 and the other does not, they differ by one, and the labels are shifted.
    pub fn for_classes(mut self, classes: usize) -> Result<Labels, LabelsError> {
        let labels = self.len();
        if labels == classes + 1 && self.starts_with_background() {
            self.0.remove(0);
        } else if labels + 1 == classes && !self.starts_with_background() {
            self.0.insert(0, "background".into());
        } else if labels != classes {
            return Err(LabelsError::Count { labels, classes });
        }
        Ok(self)
    }

    /// The labels for a detector, which never answers with the background: without it.
    pub fn for_detection(mut self) -> Labels {
        if self.starts_with_background() {
            self.0.remove(0);
        }
        self
    }

    fn starts_with_background(&self) -> bool {
        self.0.first().is_some_and(|first| {
            first == "???" || first.eq_ignore_ascii_case("background") || first == "__background__"
        })
    }
}

fn numbered(line: &str) -> Option<(usize, &str)> {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = line.split_at(digits);
    let label = rest.trim_start_matches([':', ',', ' ', '\t']);
    (label.len() < rest.len() && !label.is_empty()).then_some(())?;
    Some((number.parse().ok()?, label))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Labels {
        Labels::parse(text).unwrap()
    }

    #[test]
    fn plain_and_numbered_lines() {
        assert_eq!(parse("cat\r\ndog\n").get(1), Some("dog"));
        let numbered = parse("0  person\n1  bicycle\n3: car, sedan\n");
        assert_eq!(
            (numbered.len(), numbered.get(2), numbered.get(3)),
            (4, None, Some("car, sedan"))
        );
        assert_eq!(parse("7 up\n3 musketeers\n").get(0), Some("7 up"));
        assert_eq!(parse("a\nb\n\nA remark.\n").len(), 2);
    }

    #[test]
    fn bad_lists_are_refused() {
        assert_eq!(Labels::parse("\n \n"), Err(LabelsError::Empty));
        assert_eq!(
            Labels::parse("99999999999 x"),
            Err(LabelsError::Index { line: 1, index: 99999999999 })
        );
        assert_eq!(parse("a\nb").for_classes(9), Err(LabelsError::Count { labels: 2, classes: 9 }));
    }

    #[test]
    fn the_background_class_is_moved_onto_the_model() {
        let with = "background\ncat\ndog";
        assert_eq!(parse(with).for_classes(3).unwrap().get(1), Some("cat"));
        assert_eq!(parse(with).for_classes(2).unwrap().get(0), Some("cat"));
        assert_eq!(parse("cat\ndog").for_classes(3).unwrap().get(2), Some("dog"));
        assert_eq!(parse("???\nperson").for_detection().get(0), Some("person"));
        assert!(parse(with).for_classes(4).is_err());
    }
}
