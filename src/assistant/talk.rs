//! A spoken conversation: the machine's decisions carried out on a session.
//! In: sound, pictures, what was played, keys, results of tools. Out: [`TalkEvent`]s.
//! Invariant: no clock and no thread; each call is one block of sound, one token or one prompt.
//! What was spoken aloud is what the history holds; a tool runs only in a turn that is over.

mod room;

use std::cell::Cell;
use std::sync::Arc;

use crate::assistant::ear::Ear;
use crate::assistant::ear::seconds;
use crate::assistant::event::Action;
use crate::assistant::event::Counters;
use crate::assistant::event::Input;
use crate::assistant::event::Key;
use crate::assistant::event::State;
use crate::assistant::option::TurnOptions;
use crate::assistant::reply::Reply;
use crate::assistant::wake::Lookout;
use crate::error::Error;
use crate::error::Result;
use crate::frontend::change::CHANGE_SHARE_DEFAULT;
use crate::frontend::change::Scene;
use crate::media::Frame;
use crate::media::Pcm;
use crate::session::Encoded;
use crate::session::Session;
use crate::text::Content;
use crate::text::Conversation;
use crate::text::MediaKind;
use crate::text::Message;
use crate::text::Part;
use crate::text::Role;
use crate::text::ToolCall;

/// Rounds of tool calls in one answer.
const ROUNDS_MAX: usize = 8;

/// What happens in a conversation.
#[derive(Clone, Copy)]
pub enum TalkEvent<'a> {
    /// The wake word was heard: what is said now is meant for the assistant.
    Woken,
    /// The user begins to speak.
    SpeechBegan {
        /// Seconds from the start of the sound.
        at_s: f64,
        /// Where the newest picture of the scene can be put, for a conversation that sees.
        picture: &'a Cell<Option<Frame>>,
    },
    /// A picture of the scene was put before what the user says.
    Looked {
        /// Its soft tokens.
        n_tokens: usize,
    },
    /// The end of the turn is guessed; an answer that nobody hears yet is begun.
    EndGuessed,
    /// The user goes on; the answer is dropped.
    TakenBack {
        /// Positions and tokens computed in vain.
        n_wasted: usize,
    },
    /// What was heard was no turn.
    Discarded,
    /// The turn is over.
    TurnEnded {
        /// Where it began, in seconds from the start of the sound.
        from_s: f64,
        /// Where its sound ended.
        to_s: f64,
        /// Whether the answer had begun already.
        is_guessed: bool,
    },
    /// The first token of an answer is there.
    FirstToken,
    /// A piece of the answer to show, and to speak if answers are spoken.
    Said {
        /// The answer, for `Input::Played`.
        answer: u32,
        /// The piece.
        text: &'a str,
        /// Where it ends in the answer.
        end_bytes: usize,
    },
    /// Be silent at once.
    Silence,
    /// The answer is complete or was interrupted.
    AnswerEnded {
        /// Its tokens.
        n_tokens: usize,
    },
    /// The microphone should be opened.
    OpenMicrophone,
    /// Nobody listens until woken.
    Asleep,
}

/// Where events go; an error ends the conversation.
pub type TalkSink<'a> = dyn FnMut(TalkEvent<'_>) -> Result<()> + 'a;

/// What is seen when the user begins to speak.
struct Eye {
    budget: u32,
    /// The scene of the newest picture in the conversation.
    scene: Scene,
    /// The picture before the sound of the open turn.
    picture: Option<Arc<Encoded>>,
}

/// A conversation by voice.
pub struct Talk {
    session: Session,
    ear: Ear,
    conversation: Conversation,
    media: Vec<Arc<Encoded>>,
    n_tokens_max: usize,
    is_aloud: bool,
    /// Whether the speaker is gone, so that showing is speaking for now.
    is_mute: bool,
    /// Sound of the open turn, in samples.
    turn: (u64, u64),
    reply: Option<Reply>,
    eye: Option<Eye>,
    lookout: Option<Lookout>,
    n_wasted: usize,
}

impl Talk {
    /// Starts a conversation in which nobody has spoken: its system text and tools are prefilled.
    ///
    /// `is_aloud` tells that pieces are spoken, and that `Input::Played` will say how far;
    /// otherwise showing is speaking. An answer has at most `n_tokens_max` tokens.
    ///
    /// # Errors
    /// `Input` if an option is out of range, the opening names media or the context is too short
    /// for it and a turn; as for a session's sound.
    pub fn new(
        session: Session,
        opening: Conversation,
        options: &TurnOptions,
        (is_aloud, n_tokens_max): (bool, usize),
        now_ns: u64,
    ) -> Result<Self> {
        let n_media = opening.media().count();
        if n_media > 0 {
            return Err(Error::input(format!("messages name {n_media} media, expected none")));
        }
        let ear = Ear::new(options.clone(), now_ns)?;
        let mut talk = Self {
            session,
            ear,
            conversation: opening,
            media: Vec::new(),
            n_tokens_max,
            is_aloud,
            is_mute: false,
            turn: (0, 0),
            reply: None,
            eye: None,
            lookout: None,
            n_wasted: 0,
        };
        talk.arm()?;
        Ok(talk)
    }

    /// Lets the conversation see: the picture that [`TalkEvent::SpeechBegan`] is given goes in
    /// before the sound, in at most `budget` soft tokens. While the scene is as in the last
    /// picture, none is added.
    pub fn see(&mut self, budget: u32) {
        self.eye = Some(Eye { budget, scene: Scene::default(), picture: None });
    }

    /// Lets a small model overhear what is said until its phrase is heard, if the options want one:
    /// until then nothing is fed or computed for the conversation.
    pub fn wake_by(&mut self, lookout: Lookout) {
        self.lookout = Some(lookout);
    }

    /// Returns what was said so far.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Returns the session, for its cancel flag.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Returns where the conversation is.
    pub fn state(&self) -> State {
        self.ear.machine().state()
    }

    /// Returns whether what is said now needs no wake word.
    pub fn is_awake(&self) -> bool {
        self.ear.machine().is_awake()
    }

    /// Returns what happened so far.
    pub fn counters(&self) -> Counters {
        self.ear.machine().counters()
    }

    /// Returns how many positions and tokens were computed for ends that were taken back.
    pub fn n_wasted(&self) -> usize {
        self.n_wasted
    }

    /// Takes in sound; [`listen`](Self::listen) then hears it, block by block.
    ///
    /// # Errors
    /// `Input` if a sample is not finite or the rate is out of range.
    pub fn push(&mut self, pcm: &Pcm) -> Result<()> {
        self.ear.push(pcm)
    }

    /// Returns the seconds of sound that wait to be heard.
    pub fn waiting_s(&self) -> f64 {
        self.ear.waiting_s()
    }

    /// Does one piece of what waits: hears a block of sound, or else makes a token. `false` if
    /// nothing waits.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn advance(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<bool> {
        Ok(self.listen(now_ns, events)? || self.step(now_ns, events)?)
    }

    /// Lets time pass and does one piece of what waits, as [`advance`](Self::advance) does; calls
    /// after too many rounds of them are left.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn poll(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<bool> {
        self.tell(now_ns, Input::Tick, events)?;
        let has_worked = self.advance(now_ns, events)?;
        if !self.calls().is_empty() && !self.may_call() {
            self.leave_calls(now_ns, events)?;
        }
        Ok(has_worked)
    }

    /// Goes on after an error: the open turn is forgotten, and what was not shown of an answer;
    /// what was said before stays.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn recover(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<()> {
        while self.ear.poll().is_some() {}
        self.lookout.iter_mut().for_each(Lookout::forget);
        self.ear.tell(now_ns, Input::Key(Key::Interrupt))?;
        let mut is_silenced = false;
        while let Some(action) = self.ear.poll() {
            is_silenced |= action == Action::StopPlayback;
        }
        if let Some(reply) = self.reply.take().filter(|r| r.is_settled) {
            let shown = reply.shown();
            self.remember(reply.message(shown));
        }
        if let Some(eye) = &mut self.eye {
            (eye.picture, eye.scene) = (None, Scene::default());
        }
        if is_silenced {
            events(TalkEvent::Silence)?;
        }
        events(TalkEvent::Discarded)?;
        self.arm()
    }

    /// Puts a message into the history, unless it is empty.
    fn remember(&mut self, message: Message) {
        let is_empty = matches!(&message.content, Content::Text(text) if text.is_empty());
        if !is_empty || !message.tool_calls.is_empty() {
            self.conversation.messages.push(message);
        }
    }

    /// Hears a block of sound and returns whether there was one.
    ///
    /// # Errors
    /// Whatever the session or `events` bring.
    pub fn listen(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<bool> {
        let has_heard = self.ear.listen(now_ns)?;
        self.act(now_ns, events)?;
        Ok(has_heard)
    }

    /// Hears all the sound that waits.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn listen_all(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<()> {
        while self.listen(now_ns, events)? {}
        Ok(())
    }

    /// Ends the sound: an open turn is over. All blocks must have been heard.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn finish(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<()> {
        self.ear.flush()?;
        self.listen_all(now_ns, events)?;
        self.ear.finish(now_ns)?;
        self.act(now_ns, events)?;
        self.tell(now_ns, Input::Key(Key::EndTurn), events)
    }

    /// Tells of a key, a device, lost samples or mere time.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn tell(&mut self, now_ns: u64, input: Input, events: &mut TalkSink<'_>) -> Result<()> {
        if let Input::Played { answer, .. } = input
            && self.reply.as_ref().is_some_and(|r| r.id == answer)
        {
            self.settle()?;
        }
        match input {
            Input::SpeakerLost => self.is_mute = true,
            Input::SpeakerBack => self.is_mute = false,
            _ => {}
        }
        self.ear.tell(now_ns, input)?;
        self.act(now_ns, events)
    }

    /// Makes the next token of the answer and returns whether there was one to make.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn step(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<bool> {
        let Some(reply) = self.reply.as_mut().filter(|r| r.is_growing()) else { return Ok(false) };
        let is_first = reply.n_tokens == 0;
        let told = reply.step(&mut self.session, self.n_tokens_max)?;
        if is_first {
            events(TalkEvent::FirstToken)?;
        }
        for input in told {
            self.tell(now_ns, input, events)?;
        }
        Ok(true)
    }

    /// Returns the calls that wait for results; none before the turn is over.
    pub fn calls(&self) -> &[ToolCall] {
        match &self.reply {
            Some(reply) if reply.is_committed && reply.is_waiting() => &reply.parsed.tool_calls,
            _ => &[],
        }
    }

    /// Hands over the results of [`calls`](Self::calls) in order, and the answer goes on.
    ///
    /// # Errors
    /// `Input` if no calls wait or results are missing; as for [`listen`](Self::listen).
    pub fn results(&mut self, results: Vec<Content>) -> Result<()> {
        let calls = self.calls().to_vec();
        if calls.is_empty() || calls.len() != results.len() {
            let (n, m) = (results.len(), calls.len());
            return Err(Error::input(format!("{n} results of tools, but {m} calls wait")));
        }
        self.settle()?;
        let Some(mut reply) = self.reply.take() else { return Ok(()) };
        self.conversation.messages.push(reply.message(usize::MAX));
        let results = calls.into_iter().zip(results).map(|(call, content)| {
            let mut message = Message::new(Role::Tool, content);
            message.name = Some(call.name);
            message
        });
        self.remember_results(results.collect())?;
        self.session.prompt(&self.conversation, &self.media)?;
        reply.next_round();
        self.reply = Some(reply);
        Ok(())
    }

    /// Ends the answer at calls that nobody carries out, or after too many rounds of them.
    ///
    /// # Errors
    /// As for [`listen`](Self::listen).
    pub fn leave_calls(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<()> {
        let Some(reply) = self.reply.as_mut().filter(|r| r.is_waiting()) else { return Ok(()) };
        reply.end();
        let answer = reply.id;
        self.tell(now_ns, Input::AnswerEnded { answer }, events)
    }

    /// Returns whether another round of calls may follow.
    pub fn may_call(&self) -> bool {
        self.reply.as_ref().is_some_and(|r| r.n_rounds < ROUNDS_MAX)
    }

    fn act(&mut self, now_ns: u64, events: &mut TalkSink<'_>) -> Result<()> {
        while let Some(action) = self.ear.poll() {
            self.carry_out(now_ns, action, events)?;
        }
        let is_over = !matches!(self.state(), State::Answering | State::Guessing);
        if is_over && self.reply.is_some() {
            self.conclude(usize::MAX, events)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, now_ns: u64, action: Action, events: &mut TalkSink<'_>) -> Result<()> {
        match action {
            Action::Overhear { from, to } => {
                let sound = self.ear.sound(from, to)?;
                self.lookout.as_mut().ok_or_else(no_lookout)?.hear(&sound)
            }
            Action::Look => {
                let called = self.lookout.as_mut().ok_or_else(no_lookout)?.look()?;
                self.ear.tell(now_ns, Input::Called(called))
            }
            Action::EndOverhearing { is_woken } => {
                self.lookout.iter_mut().for_each(Lookout::forget);
                if is_woken { events(TalkEvent::Woken) } else { Ok(()) }
            }
            Action::StartSpeech { from } => {
                self.turn = (from, from);
                let picture = Cell::new(None);
                events(TalkEvent::SpeechBegan { at_s: seconds(from), picture: &picture })?;
                match picture.into_inner() {
                    Some(frame) => self.look(&frame, events),
                    None => Ok(()),
                }
            }
            Action::FeedAudio { from, to } => self.feed(now_ns, from, to),
            Action::CloseAudioBlock => self.session.close_segment(),
            Action::GuessEnd { answer } => {
                events(TalkEvent::EndGuessed)?;
                self.begin_reply(answer)
            }
            Action::Rollback { .. } => self.roll_back(events),
            Action::CommitEnd { answer, is_guessed } => {
                let (from_s, to_s) = (seconds(self.turn.0), seconds(self.turn.1));
                events(TalkEvent::TurnEnded { from_s, to_s, is_guessed })?;
                if !is_guessed {
                    self.begin_reply(answer)?;
                }
                self.reply.iter_mut().for_each(|r| r.is_committed = true);
                Ok(())
            }
            Action::Discard => {
                events(TalkEvent::Discarded)?;
                if let Some(eye) = &mut self.eye {
                    (eye.picture, eye.scene) = (None, Scene::default());
                }
                self.arm()
            }
            Action::Play { answer, to_bytes } => self.play(now_ns, answer, to_bytes, events),
            Action::StopPlayback => events(TalkEvent::Silence),
            Action::StopAnswer { .. } => {
                self.session.cut(&mut |_| {});
                self.reply.iter_mut().for_each(Reply::end);
                Ok(())
            }
            Action::Truncate { to_bytes, .. } => self.conclude(to_bytes, events),
            Action::OpenMicrophone => events(TalkEvent::OpenMicrophone),
            Action::Sleep => events(TalkEvent::Asleep),
        }
    }

    /// Puts a picture before the sound that begins.
    fn look(&mut self, frame: &Frame, events: &mut TalkSink<'_>) -> Result<()> {
        let Some(eye) = &mut self.eye else { return Ok(()) };
        let is_image = |media: &Arc<Encoded>| media.kind() == MediaKind::Image;
        let is_held = eye.picture.is_some() || self.media.iter().any(is_image);
        if is_held && eye.scene.difference(frame) < CHANGE_SHARE_DEFAULT {
            return Ok(());
        }
        let picture = self.session.encode_picture(frame, eye.budget)?;
        let n_tokens = picture.n_tokens();
        eye.scene.keep(frame);
        eye.picture = Some(picture);
        if !self.has_room_for_a_turn()? {
            self.eye.iter_mut().for_each(|eye| eye.picture = None);
            log::warn!("a picture of {n_tokens} tokens does not fit; the turn goes on without it");
            return self.arm();
        }
        events(TalkEvent::Looked { n_tokens })?;
        self.arm()
    }

    fn begin_reply(&mut self, answer: u32) -> Result<()> {
        // A guess can be taken back even after the turn ended, as long as nothing was spoken.
        self.session.guess_end()?;
        self.reply = Some(Reply::new(answer));
        Ok(())
    }

    fn roll_back(&mut self, events: &mut TalkSink<'_>) -> Result<()> {
        let Some(reply) = self.reply.take() else { return Ok(()) };
        let mut n_wasted = reply.n_tokens;
        if reply.is_settled {
            // Tools have run: what they did stays in the history, and another turn is opened.
            self.arm()?;
        } else {
            n_wasted = self.session.take_back()?.max(n_wasted);
        }
        self.n_wasted += n_wasted;
        events(TalkEvent::TakenBack { n_wasted })
    }

    fn play(
        &mut self,
        now_ns: u64,
        answer: u32,
        to_bytes: usize,
        events: &mut TalkSink<'_>,
    ) -> Result<()> {
        if !self.is_aloud || self.is_mute {
            self.settle()?;
        }
        if let Some(reply) = self.reply.as_mut() {
            let text = reply.show(to_bytes);
            events(TalkEvent::Said { answer, text, end_bytes: to_bytes })?;
        }
        if !self.is_aloud {
            self.ear.tell(now_ns, Input::Played { answer, to_bytes })?;
        }
        Ok(())
    }

    /// Makes the guessed end true: from here on the turn is history.
    fn settle(&mut self) -> Result<()> {
        let Some(reply) = self.reply.as_mut().filter(|r| !r.is_settled) else { return Ok(()) };
        reply.is_settled = true;
        let sound = self.session.end_sound()?;
        let picture = self.eye.as_mut().and_then(|eye| eye.picture.take());
        self.conversation.messages.push(spoken(picture.is_some()));
        self.media.extend(picture);
        self.media.push(sound);
        Ok(())
    }

    /// Puts what was said of the answer into the history and waits for the next turn.
    fn conclude(&mut self, to_bytes: usize, events: &mut TalkSink<'_>) -> Result<()> {
        self.settle()?;
        let Some(reply) = self.reply.take() else { return Ok(()) };
        self.remember(reply.message(to_bytes));
        events(TalkEvent::AnswerEnded { n_tokens: reply.n_tokens })?;
        self.arm()
    }
}

fn no_lookout() -> Error {
    Error::input("the options want a wake word, but no model listens for it; give Talk a Lookout")
}

/// Returns the place for what the user says, behind one for a picture if there is one.
fn spoken(has_picture: bool) -> Message {
    let picture = has_picture.then_some(MediaKind::Image);
    let parts = picture.into_iter().chain([MediaKind::Audio]);
    Message::new(Role::User, Content::Parts(parts.map(|kind| Part::Media(kind, None)).collect()))
}
