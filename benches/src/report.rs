//! Collects one figure a round and server, and prints medians, ranges and ratios.

use crate::server::Kind;

/// All figures of a run, in the order in which their rows first came.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    unit: &'static str,
    etcd: Vec<f64>,
    dqlited: Vec<f64>,
}

impl Report {
    /// Adds one round's figure.
    pub fn add(&mut self, name: &'static str, unit: &'static str, kind: Kind, figure: f64) {
        let position = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name, unit, etcd: Vec::new(), dqlited: Vec::new() });
            self.rows.len() - 1
        });
        match kind {
            Kind::Etcd => self.rows[position].etcd.push(figure),
            Kind::Dqlited => self.rows[position].dqlited.push(figure),
        }
    }

    /// Prints the table as Markdown. A ratio is dqlited's median by etcd's.
    pub fn print(mut self) {
        println!("| row | unit | etcd median (range) | dqlited median (range) | ratio |");
        println!("|---|---|---|---|---|");
        for row in &mut self.rows {
            let etcd = Spread::of(&mut row.etcd);
            let dqlited = Spread::of(&mut row.dqlited);
            let ratio = dqlited.median / etcd.median;
            println!("| {} | {} | {etcd} | {dqlited} | **{ratio:.2}** |", row.name, row.unit);
        }
    }
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(figures: &mut [f64]) -> Spread {
        figures.sort_by(f64::total_cmp);
        match figures {
            [] => Spread { least: f64::NAN, median: f64::NAN, most: f64::NAN },
            [least, ..] => {
                Spread { least: *least, median: figures[figures.len() / 2], most: figures[figures.len() - 1] }
            }
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median < 100.0 { 2 } else { 0 };
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}
