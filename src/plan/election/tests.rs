//! Elections by table, and thousands of them in virtual time: paused, killed and slow operators, lost and late messages.

use proptest::prelude::*;

use super::*;

const SECONDS: u32 = 12;

fn second(n: u64) -> Moment {
    Duration::from_secs(n)
}

fn held(version: u64, holder: &str) -> Stored {
    let record = Record { holder: holder.to_owned(), seconds: SECONDS, transitions: 3 };
    Stored { uid: "u".to_owned(), version, record }
}

fn operator(me: &str) -> Election {
    Election::new(me.to_owned(), Terms::new(SECONDS))
}

/// One that leads since second 100, by version 7.
fn leader() -> Election {
    let mut leader = operator("a");
    leader.hear(second(100), second(100), Answer::Found(held(6, "")));
    assert!(matches!(leader.next(second(100)), Next::Write(_)));
    leader.hear(second(100), second(101), Answer::Written(held(7, "a")));
    assert_eq!(leader.leads_until(), Some(second(108)), "counted from when it was sent");
    leader
}

/// One that has seen version 7 of another at second 100.
fn standby() -> Election {
    let mut standby = operator("b");
    assert_eq!(standby.next(second(100)), Next::Read);
    standby.hear(second(99), second(100), Answer::Found(held(7, "a")));
    standby
}

fn is_write(next: &Next) -> bool {
    matches!(next, Next::Write(_))
}

#[test]
fn the_parts_of_a_lease_fit() {
    for seconds in [1, 2, 3, 24, 100] {
        let terms = Terms::new(seconds);
        assert!(terms.deadline() + terms.margin() <= terms.lease());
        assert!(terms.renewal() + terms.patience() + terms.pause() < terms.deadline(), "there is time to try twice");
    }
}

#[test]
fn who_is_alone_leads_at_once() {
    let mut alone = operator("a");
    alone.hear(second(0), second(0), Answer::Absent);
    let Next::Write(write) = alone.next(second(0)) else { panic!("{:?}", alone.next(second(0))) };
    assert_eq!((write.over, write.record.holder.as_str(), write.record.transitions), (None, "a", 0));
    assert_eq!(alone.leads_until(), None, "not before it is accepted");
}

#[test]
fn the_leader_renews_in_time_and_ends_at_the_deadline() {
    let mut leader = leader();
    assert_eq!(leader.next(second(101)), Next::Rest(second(104)));
    assert!(is_write(&leader.next(second(104))));
    leader.hear(second(104), second(106), Answer::Nothing);
    assert_eq!(leader.next(second(106)), Next::Rest(second(107)));
    assert_eq!(leader.next(second(107)), Next::Read, "whether it was renewed is unknown");
    leader.hear(second(107), second(107), Answer::Found(held(8, "a")));
    assert_eq!(leader.leads_until(), Some(second(108)), "a look renews nothing");
    assert!(is_write(&leader.next(second(107))));
    leader.hear(second(107), second(108), Answer::Nothing);
    assert_eq!(leader.next(second(108)), Next::End(Lost::Expired(second(8))));
}

#[test]
fn a_restarted_container_takes_its_lease_back_at_once() {
    let mut again = operator("a");
    again.hear(second(0), second(0), Answer::Found(held(7, "a")));
    let Next::Write(write) = again.next(second(0)) else { panic!("it waits") };
    assert_eq!(write.record.transitions, 3, "it is the same holder");
}

#[test]
fn a_standby_waits_for_what_it_has_seen_to_expire() {
    let mut standby = standby();
    assert!(standby.is_settled(second(100)));
    assert_eq!(standby.next(second(100)), Next::Rest(second(112)));
    // The lease was renewed: another twelve seconds from when that is seen.
    standby.hear(second(104), second(104), Answer::Shown(held(8, "a")));
    assert_eq!(standby.next(second(112)), Next::Rest(second(116)));
    standby.hear(second(115), second(115), Answer::Shown(held(7, "a")));
    assert_eq!(standby.next(second(115)), Next::Rest(second(116)), "a late word changes nothing");
    assert!(!standby.is_settled(second(116)));
    let Next::Write(write) = standby.next(second(116)) else { panic!("it waits") };
    assert_eq!((write.over, write.record.transitions), (Some(held(8, "a")), 4));
}

#[test]
fn what_is_released_is_taken_at_once() {
    let mut leader = leader();
    let write = leader.resign().unwrap();
    assert_eq!((write.record.holder.as_str(), write.record.seconds), ("", 1));
    assert_eq!(leader.leads_until(), None);
    assert_eq!(leader.resign(), None);
    let mut standby = standby();
    let released = Stored { uid: "u".to_owned(), version: 9, record: write.record };
    standby.hear(second(103), second(103), Answer::Shown(released));
    assert!(is_write(&standby.next(second(103))));
}

#[test]
fn a_deleted_lease_is_left_alone_as_long_as_its_holder_may_believe_in_it() {
    let mut standby = standby();
    standby.hear(second(101), second(101), Answer::Absent);
    assert_eq!(standby.next(second(101)), Next::Rest(second(112)));
    let mut leader = leader();
    leader.hear(second(102), second(102), Answer::Absent);
    assert!(is_write(&leader.next(second(104))), "the holder makes a new one");
}

#[test]
fn a_conflict_loses() {
    let mut standby = standby();
    standby.hear(second(112), second(113), Answer::Conflict);
    assert_eq!(standby.next(second(113)), Next::Read);
    standby.hear(second(113), second(113), Answer::Found(held(9, "c")));
    assert_eq!(standby.next(second(113)), Next::Rest(second(125)));

    let mut leader = leader();
    leader.hear(second(104), second(104), Answer::Conflict);
    leader.hear(second(104), second(104), Answer::Found(held(8, "b")));
    assert_eq!(leader.next(second(104)), Next::End(Lost::Taken("b".to_owned())));
}

#[test]
fn conflicts_without_end_do_not_spin() {
    let mut leader = leader();
    leader.hear(second(104), second(104), Answer::Conflict);
    leader.hear(second(104), second(104), Answer::Found(held(7, "a")));
    assert_eq!(leader.next(second(104)), Next::Rest(second(105)));
}

#[test]
fn an_answer_that_comes_too_late_makes_nobody_leader() {
    let mut slow = standby();
    slow.hear(second(112), second(121), Answer::Written(held(8, "b")));
    assert_eq!(slow.leads_until(), None);
    assert!(is_write(&slow.next(second(121))), "but the lease is its own");
}

// --- Virtual time -------------------------------------------------------------------------------

/// What a step is long.
const TICK: u64 = 100;
/// Faults come in this time...
const TROUBLE: u64 = 1200;
/// ... and this much later somebody leads.
const CALM: u64 = 450;

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
struct Fate {
    /// Ticks until it arrives; never.
    arrives: Option<u64>,
    /// Ticks from there until the answer arrives; never.
    answered: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// SIGSTOP, and SIGCONT so many ticks later.
    Pause(u64),
    /// SIGKILL, and started again so many ticks later.
    Kill(u64),
    /// Nothing of it arrives for so many ticks.
    Cut(u64),
}

#[derive(Debug, Clone)]
struct Sent {
    at: Moment,
    ask: Next,
    arrives: Option<u64>,
    answer: Option<Answer>,
    answered: Option<u64>,
}

struct Process {
    name: String,
    /// Its clock: where it stands at tick 0, and how fast it runs, in thousandths.
    clock: (Moment, u64),
    election: Election,
    asked: Option<Sent>,
    paused: u64,
    dead: u64,
    cut: u64,
}

impl Process {
    fn now(&self, tick: u64) -> Moment {
        self.clock.0 + Duration::from_micros(tick * TICK * self.clock.1)
    }

    fn leads(&self, tick: u64) -> bool {
        tick >= self.dead && self.election.leads_until().is_some_and(|until| self.now(tick) < until)
    }

    fn restart(&mut self, at: u64) {
        self.election = operator(&self.name);
        (self.asked, self.paused, self.dead) = (None, 0, at);
    }
}

#[derive(Default)]
struct Server {
    lease: Option<Stored>,
    version: u64,
    /// Requests whose sender does not wait any more: they arrive all the same.
    adrift: Vec<(u64, Write)>,
}

impl Server {
    fn write(&mut self, write: &Write) -> Answer {
        if write.over != self.lease {
            return if self.lease.is_none() { Answer::Absent } else { Answer::Conflict };
        }
        self.version += 1;
        let stored = Stored { uid: "u".to_owned(), version: self.version, record: write.record.clone() };
        self.lease = Some(stored.clone());
        Answer::Written(stored)
    }

    fn answer(&mut self, ask: &Next) -> Answer {
        match ask {
            Next::Write(write) => self.write(write),
            _ => self.lease.clone().map_or(Answer::Absent, Answer::Found),
        }
    }
}

fn step(process: &mut Process, server: &mut Server, tick: u64, fates: &mut impl Iterator<Item = Fate>, watched: bool) {
    // The server goes on while its clients stand still.
    if let Some(sent) = &mut process.asked
        && sent.arrives == Some(tick)
    {
        sent.answer = Some(server.answer(&sent.ask));
    }
    if tick < process.dead || tick < process.paused {
        return;
    }
    let now = process.now(tick);
    if let Some(sent) = &process.asked {
        if sent.answered.is_some_and(|at| at <= tick) && tick >= process.cut {
            let answer = sent.answer.clone().unwrap_or(Answer::Nothing);
            process.election.hear(sent.at, now, answer);
        } else if now >= sent.at + Terms::new(SECONDS).patience() {
            if let (Next::Write(write), None, Some(at)) = (&sent.ask, &sent.answer, sent.arrives) {
                server.adrift.push((at, write.clone()));
            }
            process.election.hear(sent.at, now, Answer::Nothing);
        } else {
            return;
        }
        process.asked = None;
    }
    match process.election.next(now) {
        Next::End(_) => process.restart(tick + 10),
        Next::Rest(_) => {
            if watched && process.election.leads_until().is_none() && tick >= process.cut {
                process.election.hear(now, now, server.lease.clone().map_or(Answer::Absent, Answer::Shown));
            }
        }
        ask => {
            let fate = fates.next().filter(|_| tick < TROUBLE).unwrap_or(Fate { arrives: Some(0), answered: Some(0) });
            let arrives = fate.arrives.filter(|_| tick >= process.cut).map(|ticks| tick + 1 + ticks);
            let answered = arrives.zip(fate.answered).map(|(arrives, ticks)| arrives + 1 + ticks);
            process.asked = Some(Sent { at: now, ask, arrives, answer: None, answered });
        }
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    let ticks = || prop_oneof![4 => (0u64..3).prop_map(Some), 2 => (3u64..300).prop_map(Some), 1 => Just(None)];
    (ticks(), ticks()).prop_map(|(arrives, answered)| Fate { arrives, answered })
}

fn fault() -> impl Strategy<Value = (u64, usize, Fault)> {
    let fault = prop_oneof![
        (1u64..300).prop_map(Fault::Pause),
        (1u64..200).prop_map(Fault::Kill),
        (1u64..300).prop_map(Fault::Cut),
    ];
    (0..TROUBLE, 0usize..3, fault)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn never_two_lead_and_in_the_end_one_does(
        count in 2usize..4,
        clocks in proptest::collection::vec((0u64..100_000, 850u64..1150), 3),
        faults in proptest::collection::vec(fault(), 0..20),
        fates in proptest::collection::vec(fate(), 1..60),
        watch_every in 1u64..40,
    ) {
        let mut server = Server::default();
        let mut processes: Vec<Process> = clocks.iter().take(count).enumerate().map(|(i, (start, rate))| {
            let name = format!("operator-{i}");
            let clock = (Duration::from_millis(*start), *rate);
            Process { election: operator(&name), name, clock, asked: None, paused: 0, dead: 0, cut: 0 }
        }).collect();
        let mut fates = fates.iter().copied().cycle();
        for tick in 0..TROUBLE + CALM {
            for (at, who, fault) in faults.iter().filter(|(at, who, _)| *at == tick && *who < count) {
                let process = &mut processes[*who];
                match fault {
                    Fault::Pause(ticks) => process.paused = at + ticks,
                    Fault::Cut(ticks) => process.cut = at + ticks,
                    Fault::Kill(ticks) => {
                        if let Some(Sent { ask: Next::Write(write), answer: None, arrives: Some(at), .. }) = &process.asked {
                            server.adrift.push((*at, write.clone()));
                        }
                        process.restart(at + ticks);
                    }
                }
            }
            for (_, write) in server.adrift.extract_if(.., |(at, _)| *at <= tick).collect::<Vec<_>>() {
                server.write(&write);
            }
            let watched = tick % watch_every == 0;
            for process in &mut processes {
                step(process, &mut server, tick, &mut fates, watched);
                // Of two that lead it does not matter which is looked at first.
            }
            let leading: Vec<&str> = processes.iter().filter(|p| p.leads(tick)).map(|p| p.name.as_str()).collect();
            prop_assert!(leading.len() <= 1, "at {} ms: {leading:?}", tick * TICK);
        }
        let end = TROUBLE + CALM;
        prop_assert_eq!(processes.iter().filter(|p| p.leads(end)).count(), 1);
    }
}
