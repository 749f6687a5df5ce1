//! Spaces, nets and runs -> pictures and one HTML page.
//!
//! - [`canvas`]: what all pictures share;
//! - [`space_chart`]: latency and scores over width, with the line, groups and choices (paper, Figs. 2, 3);
//! - [`graph_space`], [`graph_terminal`]: the same of a space of heads and dims (Figs. 4, 5), drawn and as
//!   text;
//! - [`line_chart`]: curves of a search or a training;
//! - [`net_chart`]: accuracy against measured latency;
//! - [`terminal`]: the space as text;
//! - [`page`]: the page, self-contained: no script, no font, nothing to load. [`sections`] are its parts.
//!
//! Pictures are SVG with real text. Axes and lettering take the page's text colour, so they read on
//! light and dark; the other colours are Okabe and Ito's (2008), which colour-blind readers tell apart.

pub mod canvas;
pub mod contrasts;
pub mod graph_space;
pub mod graph_terminal;
pub mod line_chart;
pub mod net_chart;
pub mod page;
pub mod sections;
pub mod space_chart;
pub mod terminal;

/// A picture cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// There is nothing to draw, or numbers that are none.
    #[error("{picture}: nothing to draw")]
    Nothing {
        /// Which picture.
        picture: String,
    },
    /// The drawing library refused.
    #[error("a picture cannot be drawn: {0}")]
    Draw(String),
}
