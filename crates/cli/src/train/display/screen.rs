//! A picture in the last lines of a terminal, drawn over the one before.
//!
//! Ratatui's inline viewport is not used: it asks the terminal where the cursor is, and crossterm sends that question to
//! standard output, which may be a file, and reads the answer from the keyboard. Here every move is relative, and the
//! cursor always waits at the beginning of the line below the picture.

use std::io::{self, Write};

use ratatui::backend::IntoCrossterm;
use ratatui::buffer::Buffer;
use ratatui::crossterm::QueueableCommand;
use ratatui::crossterm::cursor::{MoveToColumn, MoveUp};
use ratatui::crossterm::style::{Attribute, ContentStyle, Print, PrintStyledContent, SetAttribute};
use ratatui::crossterm::terminal::{Clear, ClearType};
use ratatui::text::Span;

/// The last lines of a terminal.
pub(super) struct Screen<W> {
    out: W,
    /// Columns of each line that was drawn.
    drawn: Vec<u16>,
}

impl<W: Write> Screen<W> {
    pub(super) fn new(out: W) -> Self {
        Screen { out, drawn: Vec::new() }
    }

    /// Draws `buffer` over the picture before, on a terminal of so many columns.
    pub(super) fn draw(&mut self, buffer: &Buffer, columns: u16) -> io::Result<()> {
        // All at once, so that nobody sees half of it.
        let mut bytes = Vec::new();
        self.back(&mut bytes, columns)?;
        for y in 0..buffer.area.height {
            let columns = line(&mut bytes, buffer, y)?;
            bytes.queue(Clear(ClearType::UntilNewLine))?.queue(Print("\r\n"))?;
            self.drawn.push(columns);
        }
        bytes.queue(Clear(ClearType::FromCursorDown))?;
        self.out.write_all(&bytes)?;
        self.out.flush()
    }

    /// Takes the picture away; the cursor is where it began.
    pub(super) fn erase(&mut self, columns: u16) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.back(&mut bytes, columns)?;
        bytes.queue(Clear(ClearType::FromCursorDown))?;
        self.out.write_all(&bytes)?;
        self.out.flush()
    }

    #[cfg(test)]
    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// To where the picture before begins. A terminal that became narrower has broken its lines.
    fn back(&mut self, bytes: &mut Vec<u8>, columns: u16) -> io::Result<()> {
        let rows: u16 = self.drawn.drain(..).map(|drawn| drawn.div_ceil(columns.max(1)).max(1)).sum();
        if rows > 0 {
            bytes.queue(MoveUp(rows))?;
        }
        bytes.queue(MoveToColumn(0))?;
        Ok(())
    }
}

/// A line without the blanks at its end; returns its columns.
fn line(bytes: &mut Vec<u8>, buffer: &Buffer, y: u16) -> io::Result<u16> {
    let end = (0..buffer.area.width).rev().find(|x| buffer[(*x, y)].symbol() != " ").map_or(0, |x| x + 1);
    let mut x = 0;
    while x < end {
        let style = buffer[(x, y)].style();
        // Letters of one style together: a picture is sent five times a second, maybe through a slow line.
        let mut letters = String::new();
        while x < end && buffer[(x, y)].style() == style {
            let letter = buffer[(x, y)].symbol();
            letters.push_str(letter);
            // The cell after a letter of two columns is its second half.
            x += Span::raw(letter).width().max(1) as u16;
        }
        let style: ContentStyle = style.into_crossterm();
        bytes.queue(PrintStyledContent(style.apply(letters)))?;
    }
    bytes.queue(SetAttribute(Attribute::Reset))?;
    Ok(x)
}
