//! Conversations in words: what is kept, cut, taken back, stopped and called.

use culet::ErrorKind;
use culet::ggml::DType;
use culet::sampler::SamplingOptions;
use culet::session::SessionOptions;
use culet::text::Stop;
use serde_json::Value;
use serde_json::json;

use crate::both::scene::KERNEL;
use crate::both::scene::Run;
use crate::both::scene::Scene;
use crate::both::scene::greedy;
use crate::both::scene::question;
use crate::both::side::BLIND;
use crate::both::side::Said;
use crate::both::side::Side;
use crate::both::side::TINY;
use crate::both::side::path;
use crate::npy::relative_error;

pub(crate) fn a_chat_goes_on_and_keeps_what_it_has<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(BLIND);
    let mut run = scene.session(&engine, &greedy(1024));
    let system = json!({ "role": "system", "content": "Be brief." });
    let begin = |run: &mut Run<S>| {
        run.messages(&json!([system]));
        run.say("hello there");
        run.prompt()
    };
    let first = begin(&mut run);
    assert_eq!((first.n_reused, run.n_past(), run.n_ctx()), (0, first.n_prompt, 1024));
    let (said, _) = run.answer(12);
    assert!(run.n_past() > first.n_prompt || said.is_empty());
    run.say("and now?");
    let second = run.prompt();
    assert!(second.n_reused >= first.n_prompt - 4, "{first:?}, {second:?}");
    // The same prompt again computes one position.
    let again = run.prompt();
    assert_eq!((again.n_prompt, again.n_reused), (second.n_prompt, second.n_prompt - 1));
    // The whole conversation at once gives the same, but for the order of additions.
    let mut fresh = scene.session(&engine, &greedy(1024));
    fresh.messages(&json!([
        system,
        { "role": "user", "content": "hello there" },
        { "role": "assistant", "content": said },
        { "role": "user", "content": "and now?" },
    ]));
    assert_eq!(fresh.prompt().n_prompt, second.n_prompt);
    // Unless the model wrote its answer in other tokens than those that are read.
    if fresh.n_past() == run.n_past() {
        assert!(relative_error(&run.logits(), &fresh.logits()) < KERNEL);
    }
    // And the same from the beginning, after everything was forgotten.
    run.clear();
    assert!(run.n_past() == 0 && run.logits().is_empty());
    assert_eq!(begin(&mut run), first);
    assert_eq!(run.answer(12).0, said);
}

pub(crate) fn a_session_goes_back_to_an_earlier_message<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(BLIND);
    let mut run = scene.session(&engine, &greedy(512));
    run.say("hello there");
    let first = run.prompt();
    let said = run.answer(12);
    run.say("and now?");
    run.prompt();
    run.next();
    let n = run.n_messages();
    assert!((3..=4).contains(&n), "{n}");
    run.refuses((ErrorKind::Input, &n.to_string()), |s| s.rewind(n + 1));
    run.rewind(1);
    assert_eq!(run.n_messages(), 1);
    run.refuses((ErrorKind::Input, "no prompt"), |s| s.next());
    let again = run.prompt();
    assert_eq!((again.n_prompt, again.n_reused), (first.n_prompt, first.n_prompt - 1));
    assert_eq!(run.answer(12), said);
    run.rewind(0);
    assert_eq!(run.n_messages(), 0);
}

pub(crate) fn a_stopped_call_can_be_repeated<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let [mut run, mut plain] = [(); 2].map(|()| scene.session(&engine, &greedy(512)));
    let stopped = (ErrorKind::Cancelled, "");
    run.say(&"one two three ".repeat(40));
    run.cancel();
    run.refuses(stopped, |s| s.prompt());
    run.prompt();
    run.next();
    run.cancel();
    run.refuses(stopped, |s| s.next());
    plain.say(&"one two three ".repeat(40));
    plain.prompt();
    plain.next();
    assert_eq!(run.answer(8), plain.answer(8));
}

pub(crate) fn a_tool_is_called_and_its_result_answered<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(TINY);
    let mut run = scene.session(&engine, &greedy(2048));
    let tools = std::fs::read_to_string(path("tiny/tools.json")).unwrap();
    let tools: Value = serde_json::from_str(&tools).unwrap();
    run.messages(&json!({ "tools": tools }));
    run.play(&question(0));
    run.prompt();
    let (called, stop) = run.answer(100);
    let call: Value = serde_json::from_str(&called).unwrap();
    assert_eq!((&call["name"], stop), (&json!("set_reminder"), Stop::Tool));
    assert_eq!(call["arguments"]["unit"], "hours", "{call}");
    assert_eq!(run.n_messages(), 2);
    run.messages(&json!([{ "role": "tool", "content": { "done": true } }]));
    let stats = run.prompt();
    assert!(stats.n_reused > 0 && stats.n_reused < stats.n_prompt, "{stats:?}");
    run.answer(40);
    assert!(run.n_messages() >= 3);
}

pub(crate) fn an_answer_that_is_cut_ends_once<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(BLIND);
    let mut run = scene.session(&engine, &greedy(256));
    run.say("tell me a story");
    run.prompt();
    run.cut();
    assert_eq!(run.answer(100).1, Stop::Cut);
    run.cut();
    run.refuses((ErrorKind::Input, "there is no prompt to answer"), |s| s.next());
}

/// The sides' options are set in their own ways; the answers tell whether they came through.
pub(crate) fn options_mean_the_same<S: Side>(scene: &Scene<S>) {
    let engine = scene.open(BLIND);
    let plain = SamplingOptions { seed: 3, ..SamplingOptions::default() };
    let choices = [
        plain.clone(),
        SamplingOptions { seed: 4, ..plain.clone() },
        SamplingOptions { temperature: 3.0, top_k: 0, top_p: 1.0, ..plain.clone() },
        SamplingOptions { temperature: 3.0, top_k: 5, top_p: 0.99, ..plain.clone() },
        SamplingOptions { temperature: 3.0, top_k: 0, top_p: 1.0, min_p: 0.01, ..plain.clone() },
        SamplingOptions { repetition_penalty: 1.8, penalty_last_n: 20, ..plain.clone() },
        SamplingOptions { frequency_penalty: 1.5, ..plain.clone() },
        SamplingOptions { presence_penalty: 1.5, ..plain },
    ];
    let caches = [DType::F32, DType::F16, DType::Q8_0, DType::Q4_0];
    let mut different = Vec::new();
    for (sampling, kv) in choices.into_iter().zip(caches.into_iter().cycle()) {
        let options = SessionOptions { n_ctx: 128, n_batch: 32, kv, sampling };
        let mut run = scene.session(&engine, &options);
        run.say("tell me a story");
        run.prompt();
        run.logits();
        let mut events: Vec<Said> = Vec::new();
        while events.len() < 24 && !matches!(events.last(), Some(Said::End(_))) {
            events.push(run.next());
        }
        different.push(events);
    }
    different.dedup();
    assert!(different.len() > 4, "{different:?}");
}
