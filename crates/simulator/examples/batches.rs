//! Simulated traffic as request bodies, for programs that send it: `benches/peers` fills its topic with it.
//!
//! ```text
//! batches EVENTS SEED  ─►  one line per request: tenant TAB source TAB JSON array of up to 100 items
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    io::{BufWriter, Write as _},
};

use chatpulse_simulator::{FaultRates, Options, Pace, Simulator};

const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];
/// Items in one request.
const BATCH: usize = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name| -> Result<u64, Box<dyn Error>> {
        let text = arguments.next().ok_or(format!("{name} is missing"))?;
        Ok(text.parse()?)
    };
    let (events, seed) = (number("EVENTS")?, number("SEED")?);
    let simulator = Simulator::new(Options {
        seed,
        events,
        tenants: TENANTS.map(str::to_owned).into(),
        base_time_ms: jiff::Timestamp::now().as_millisecond(),
        pace: Pace::Historic,
        run_id: "peers".to_owned(),
        faults: FaultRates::default(),
    });
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut open: BTreeMap<(usize, &'static str), Vec<String>> = BTreeMap::new();
    for item in simulator {
        let key = (item.tenant, item.source);
        let items = open.entry(key).or_default();
        items.push(item.body);
        if items.len() == BATCH {
            let (tenant, source) = (TENANTS[key.0], key.1);
            writeln!(output, "{tenant}\t{source}\t[{}]", items.join(","))?;
            items.clear();
        }
    }
    for ((tenant, source), items) in open.iter().filter(|(_, items)| !items.is_empty()) {
        let tenant = TENANTS[*tenant];
        writeln!(output, "{tenant}\t{source}\t[{}]", items.join(","))?;
    }
    output.flush()?;
    Ok(())
}
