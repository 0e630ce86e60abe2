//! Lines of the table.

/// One measured run against one front.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Operations a second.
    pub rate: f64,
    /// CPU time of the front for each operation, in microseconds.
    pub own_us: f64,
    /// The same of the store behind it.
    pub upstream_us: f64,
    /// Calls to the store for each operation.
    pub requests: f64,
}

/// What the gateway is held to, most of it as a multiple of what etcd does without it.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Throughput, at least.
    Rate(f64),
    /// CPU time of the gateway for each operation, at most.
    Cpu(f64),
    /// Calls to the store for each operation, at most.
    Requests(f64),
}

/// One kind of work against all fronts, round by round.
pub struct Row<'a> {
    name: &'a str,
    goals: &'a [Goal],
    /// By front, in the order in which they were first measured.
    runs: Vec<(&'static str, Vec<Figures>)>,
}

impl<'a> Row<'a> {
    pub fn new(name: &'a str, goals: &'a [Goal]) -> Row<'a> {
        Row { name, goals, runs: Vec::new() }
    }

    pub fn add(&mut self, front: &'static str, figures: Figures) {
        match self.runs.iter_mut().find(|(name, _)| *name == front) {
            Some((_, runs)) => runs.push(figures),
            None => self.runs.push((front, vec![figures])),
        }
    }

    /// CPU time of the store for each operation by way of a front, in microseconds.
    pub fn upstream_us(&self, front: &str) -> f64 {
        let runs = self.runs.iter().filter(|(name, _)| *name == front).flat_map(|(_, runs)| runs);
        median(runs.map(|run| run.upstream_us))
    }

    /// Medians of the rounds, and the medians of what each round was as a multiple of the direct run in that round.
    pub fn print(&self) {
        let Some((_, direct)) = self.runs.first() else { return };
        for (index, (front, runs)) in self.runs.iter().enumerate() {
            let all = |of: fn(&Figures) -> f64| median(runs.iter().map(of));
            let multiple =
                |of: fn(&Figures) -> f64| median(runs.iter().zip(direct).map(|(run, base)| of(run) / of(base)));
            print!("{:<13} {front:<11} {:>10.1} /s {:>10.2} us CPU", self.name, all(|f| f.rate), all(|f| f.own_us));
            if index > 0 {
                print!(" + {:.2} upstream, {:.4} requests", all(|f| f.upstream_us), all(|f| f.requests));
                print!("; x direct: rate {:.2}, CPU {:.3}", multiple(|f| f.rate), multiple(|f| f.own_us));
            }
            println!();
            if index > 0 && index + 1 == self.runs.len() {
                for goal in self.goals {
                    match *goal {
                        Goal::Rate(least) => verdict("rate", multiple(|f| f.rate), least, true),
                        Goal::Cpu(most) => verdict("gateway CPU", multiple(|f| f.own_us), most, false),
                        Goal::Requests(most) => verdict("requests upstream", all(|f| f.requests), most, false),
                    }
                }
            }
        }
    }
}

/// Says whether a goal is reached.
pub fn verdict(what: &str, is: f64, goal: f64, is_least: bool) {
    let (word, reached) = if is_least { ("least", is >= goal) } else { ("most", is <= goal) };
    println!("    {} {what}: {is:.3}, goal: at {word} {goal}", if reached { "reached" } else { "MISSED " });
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
