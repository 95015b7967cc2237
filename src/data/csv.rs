//! Labelled rows from a CSV file (RFC 4180), with the line of everything that is refused.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::media::{Source, check_name};
use super::text::Row;
use super::{DataError, Dataset};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 30;

impl Dataset {
    /// Reads a CSV file with a header line that names `text`, `label` and optionally `split`,
    /// in any order; other columns are ignored. Without a column `text`, a column `path` names
    /// files relative to the folder of the CSV file, with `/` between folders.
    ///
    /// The file must be UTF-8 (a byte order mark is allowed); fields may be quoted and then hold
    /// commas, line breaks and doubled quotes. Texts are kept as they are, labels and splits are
    /// trimmed. Blank lines are skipped.
    ///
    /// # Errors
    /// The file cannot be read, is empty or over 1 GB, lacks a column, or has a line that is
    /// ragged, not UTF-8, ends inside quotes, or leaves text, label or split empty; or a listed
    /// file does not exist or lies outside the folder.
    pub fn read_csv(path: impl AsRef<Path>) -> Result<Dataset, DataError> {
        let path = path.as_ref();
        let file = File::open(path).map_err(|e| read_error(path, e))?;
        let list = read(path, file, MAX_BYTES)?;
        if !list.files {
            return Ok(Dataset::new(path, list.rows));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        for row in &list.rows {
            if !folder.join(&row.text).is_file() {
                return Err(list_error(path, row));
            }
        }
        Ok(Dataset::with_source(path, list.rows, Source::Folder(folder)))
    }
}

/// A listed file that does not exist.
pub(super) fn list_error(path: &Path, row: &Row) -> DataError {
    DataError::MissingFile { path: path.to_owned(), line: row.line, name: row.text.clone() }
}

/// The rows of a CSV file.
#[derive(Debug)]
pub(super) struct List {
    pub(super) rows: Vec<Row>,
    /// The rows name files: the first column was `path`, not `text`.
    pub(super) files: bool,
}

fn read_error(path: &Path, source: io::Error) -> DataError {
    DataError::Read { path: path.to_owned(), source }
}

/// Reads the rows of `source`; `path` is for messages.
pub(super) fn read(path: &Path, source: impl Read, limit: u64) -> Result<List, DataError> {
    let owned = || path.to_owned();
    let mut reader = ::csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(Lines::new(source, limit));
    let mut columns: Option<Columns> = None;
    let mut rows = Vec::new();
    let mut bytes = ::csv::ByteRecord::new();
    loop {
        let more = reader.read_byte_record(&mut bytes).map_err(|e| match e.into_kind() {
            ::csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::FileTooLarge => {
                DataError::TooLarge { path: owned(), limit }
            }
            ::csv::ErrorKind::Io(e) => read_error(path, e),
            other => read_error(path, io::Error::other(format!("{other:?}"))),
        })?;
        if let Some(line) = reader.get_ref().open_quote() {
            return Err(DataError::OpenQuote { path: owned(), line });
        }
        if !more {
            break;
        }
        let start = bytes.position().map_or(0, ::csv::Position::byte);
        let line = reader.get_mut().line_at(start);
        let record = ::csv::StringRecord::from_byte_record(std::mem::take(&mut bytes))
            .map_err(|_| DataError::Utf8 { path: owned(), line })?;
        match &columns {
            None => columns = Some(Columns::find(path, &record)?),
            Some(c) => rows.push(c.row(path, line, &record)?),
        }
        bytes = record.into_byte_record();
    }
    if rows.is_empty() {
        return Err(DataError::Empty { path: owned() });
    }
    Ok(List { rows, files: columns.is_some_and(|c| c.files) })
}

/// Where the columns are.
struct Columns {
    /// The column `text`, or `path` if `files`.
    text: usize,
    files: bool,
    label: usize,
    split: Option<usize>,
    count: usize,
}

impl Columns {
    fn find(path: &Path, header: &::csv::StringRecord) -> Result<Columns, DataError> {
        let position = |column: &'static str| {
            let mut at = header.iter().enumerate().filter(|(_, name)| name.trim() == column);
            let first = at.next().map(|(i, _)| i);
            match at.next() {
                Some(_) => Err(DataError::DuplicateColumn { path: path.to_owned(), column }),
                None => Ok(first),
            }
        };
        let required = |column| {
            position(column)?.ok_or_else(|| DataError::MissingColumn {
                path: path.to_owned(),
                column,
                found: header.iter().map(str::to_owned).collect(),
            })
        };
        let (text, files) = match (position("text")?, position("path")?) {
            (None, Some(at)) => (at, true),
            _ => (required("text")?, false),
        };
        Ok(Columns {
            text,
            files,
            label: required("label")?,
            split: position("split")?,
            count: header.len(),
        })
    }

    fn row(&self, path: &Path, line: u64, record: &::csv::StringRecord) -> Result<Row, DataError> {
        if record.len() != self.count {
            return Err(DataError::Ragged {
                path: path.to_owned(),
                line,
                have: record.len(),
                want: self.count,
            });
        }
        let filled = |at, column| {
            let field = record.get(at).unwrap_or_default();
            if field.trim().is_empty() {
                return Err(DataError::EmptyField { path: path.to_owned(), line, column });
            }
            Ok(field)
        };
        let split = self.split.map(|at| filled(at, "split")).transpose()?;
        let mut text = filled(self.text, if self.files { "path" } else { "text" })?;
        if self.files {
            text = text.trim();
            check_name(path, text)?;
        }
        Ok(Row {
            text: text.to_owned(),
            label: filled(self.label, "label")?.trim().to_owned(),
            split: split.map(|s| s.trim().to_owned()),
            line,
        })
    }
}

/// Passes bytes on and remembers where lines start and whether a quote is open.
///
/// The csv crate counts a CRLF one line late and blank lines to the row after them, and takes
/// the rest of the file as one field when a quote is never closed.
struct Lines<R> {
    inner: R,
    limit: u64,
    /// Bytes passed on, without the byte order mark.
    passed: u64,
    line: u64,
    state: State,
    /// Line of the last opening quote.
    quote_line: u64,
    ended: bool,
    /// Offset and number of the lines that hold something; older ones are dropped on use.
    starts: VecDeque<(u64, u64)>,
    at_line_start: bool,
    after_cr: bool,
    mark_done: bool,
}

#[derive(PartialEq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// After a quote inside a quoted field: its end, or the first of two.
    QuoteSeen,
}

impl<R: Read> Lines<R> {
    fn new(inner: R, limit: u64) -> Self {
        Lines {
            inner,
            limit,
            passed: 0,
            line: 1,
            state: State::FieldStart,
            quote_line: 0,
            ended: false,
            starts: VecDeque::new(),
            at_line_start: true,
            after_cr: false,
            mark_done: false,
        }
    }

    /// The line of the first non-blank byte at or after `offset`.
    fn line_at(&mut self, offset: u64) -> u64 {
        while self.starts.front().is_some_and(|&(at, _)| at < offset) {
            self.starts.pop_front();
        }
        self.starts.front().map_or(self.line, |&(_, line)| line)
    }

    /// The line of the quote that is still open at the end of the file.
    fn open_quote(&self) -> Option<u64> {
        (self.ended && self.state == State::Quoted).then_some(self.quote_line)
    }

    fn look(&mut self, byte: u8) {
        let line_end = matches!(byte, b'\n' | b'\r');
        if line_end {
            if !(byte == b'\n' && self.after_cr) {
                self.line += 1;
            }
            self.at_line_start = true;
        } else if std::mem::take(&mut self.at_line_start) {
            self.starts.push_back((self.passed, self.line));
        }
        self.after_cr = byte == b'\r';
        self.state = match (&self.state, byte) {
            (State::FieldStart, b'"') => {
                self.quote_line = self.line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::QuoteSeen,
            (State::Quoted, _) | (State::QuoteSeen, b'"') => State::Quoted,
            (_, b',') => State::FieldStart,
            _ if line_end => State::FieldStart,
            _ => State::Plain,
        };
        self.passed += 1;
    }

    /// Reads until the buffer holds three bytes, and drops a byte order mark.
    fn read_first(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut have = 0;
        while have < 3 {
            match self.inner.read(&mut buf[have..])? {
                0 => break,
                n => have += n,
            }
        }
        if buf[..have].starts_with(b"\xef\xbb\xbf") {
            buf.copy_within(3..have, 0);
            have -= 3;
            if have == 0 {
                have = self.inner.read(buf)?;
            }
        }
        Ok(have)
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = if !self.mark_done && buf.len() >= 3 {
            self.mark_done = true;
            self.read_first(buf)?
        } else {
            self.inner.read(buf)?
        };
        self.ended |= n == 0 && !buf.is_empty();
        for &byte in &buf[..n] {
            self.look(byte);
        }
        if self.passed > self.limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<List, DataError> {
        read(Path::new("t.csv"), bytes, 1 << 20)
    }

    /// Gives one byte at a time, as a pipe may.
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let n = self.0.len().min(buf.len()).min(1);
            buf[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn lines_are_those_of_an_editor() {
        for end in ["\n", "\r\n", "\r"] {
            let file = ["text,label", "a,x", "", "", "b,x", "\"c", "c\",x", "d,x"].join(end);
            for file in [file.clone(), format!("{file}{end}"), format!("\u{feff}{file}")] {
                let lines = |d: List| d.rows.iter().map(|r| r.line).collect::<Vec<_>>();
                assert_eq!(lines(parse(file.as_bytes()).unwrap()), [2, 5, 6, 8], "{file:?}");
                let slow = read(Path::new("t"), Slow(file.as_bytes()), 1 << 20).unwrap();
                assert_eq!(lines(slow), [2, 5, 6, 8], "{file:?}");
            }
        }
    }

    #[test]
    fn lines_hold_across_read_buffers() {
        let mut file = String::from("text,label\r\n");
        for i in 0..20_000 {
            file += &format!("\"row {i}, {}\",c\r\n", "x".repeat(i % 37));
        }
        let data = parse(file.as_bytes()).unwrap();
        assert!(data.rows.iter().enumerate().all(|(i, r)| r.line == i as u64 + 2));
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let file = format!("text,label\n{}", "a,b\n".repeat(50));
        assert!(matches!(
            read(Path::new("t"), file.as_bytes(), 100),
            Err(DataError::TooLarge { limit: 100, .. })
        ));
        assert!(read(Path::new("t"), file.as_bytes(), file.len() as u64).is_ok());
    }

    #[test]
    fn quotes_follow_the_rfc() {
        let data =
            parse(b"text,label\n\"say \"\"hi\"\", ok\",a\n5\" pipe,a\n\"\"\"\",b\n").unwrap();
        let texts: Vec<_> = data.rows.iter().map(|r| r.text.as_str()).collect();
        assert_eq!(texts, ["say \"hi\", ok", "5\" pipe", "\""]);
    }
}
