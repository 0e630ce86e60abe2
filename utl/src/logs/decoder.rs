//! A program that reads what entries hold: a line of hex in, a line out.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::error::{Context as _, Error, Result};

/// A running decoder; ended and waited for when it goes.
#[derive(Debug)]
pub struct Decoder {
    name: String,
    child: Child,
    /// Gone once it is to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Decoder {
    /// Starts a program; its arguments follow its name, with spaces.
    pub fn start(command: &str) -> Result<Self> {
        let mut words = command.split_whitespace();
        let name = words.next().ok_or_else(|| Error::refused("a stream decoder has a name"))?.to_owned();
        let mut command = Command::new(&name);
        let mut child = command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("run the decoder", Path::new(&name))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("invariant: the output is piped"));
        Ok(Self { name, child, input, output: BufReader::new(output) })
    }

    /// What it makes of some bytes: its status, and what it says they are.
    pub fn decode(&mut self, data: &[u8]) -> Result<(String, String)> {
        let path = Path::new(&self.name);
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
        let input = self.input.as_mut().expect("invariant: the input is open until the decoder goes");
        input.write_all(hex.as_bytes()).context("write to the decoder", path)?;
        let mut line = String::new();
        if self.output.read_line(&mut line).context("read from the decoder", path)? == 0 {
            return Err(Error::refused(format!("the decoder {} ended", self.name)));
        }
        let line = line.trim_end_matches('\n');
        Ok(match line.split('|').collect::<Vec<_>>()[..] {
            [whole] => ("decoder output format is not right, print output anyway".to_owned(), whole.to_owned()),
            [status, data] => (status.to_owned(), data.to_owned()),
            [status, ref rest @ ..] => {
                let warning = "(*WARNING: data might contain deliminator used by etcd-dump-logs)";
                (format!("{status}{warning}"), rest.concat())
            }
            [] => unreachable!("a split has at least one part"),
        })
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // Its end of input; it has nothing more to say that anybody waits for.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoder_gets_hex_and_answers_with_a_status() {
        let mut cat = Decoder::start("cat").unwrap();
        let wrong = "decoder output format is not right, print output anyway".to_owned();
        assert_eq!(cat.decode(b"\x01\xff").unwrap(), (wrong, "01ff".to_owned()));
        let mut sed = Decoder::start("sed -u s/^/OK|/").unwrap();
        assert_eq!(sed.decode(b"a").unwrap(), ("OK".to_owned(), "61".to_owned()));
        assert!(Decoder::start("/nonexistent/decoder").is_err());
        assert!(Decoder::start("true").unwrap().decode(b"a").is_err());
    }
}
