//! LoyJoy: free text of visitors, live chats with humans, ends, NPS scores, opt-ins and many goals.
//! No conversation id: the page session stands for it, so each visit is one page session.

use super::Call;
use crate::json::Object;
use crate::script::{DAY, HOUR, Kind, MINUTE, SECOND, Script, Step};
use crate::visit::Visit;

const SCORES: [&str; 11] = [
    "nps_survey_score_0",
    "nps_survey_score_1",
    "nps_survey_score_2",
    "nps_survey_score_3",
    "nps_survey_score_4",
    "nps_survey_score_5",
    "nps_survey_score_6",
    "nps_survey_score_7",
    "nps_survey_score_8",
    "nps_survey_score_9",
    "nps_survey_score_10",
];

/// What a visitor may meet on the way through a process.
const GOALS: [&[&str]; 18] = [
    &["newsletter_single_opt_in_asked", "newsletter_single_opt_in"],
    &[
        "newsletter_single_opt_in_asked",
        "newsletter_single_opt_in_rejected",
    ],
    &["newsletter_double_opt_in"],
    &[
        "sms_single_opt_in_asked",
        "sms_single_opt_in",
        "sms_opt_in_code_sent",
        "sms_double_opt_in",
    ],
    &[
        "web_push_single_opt_in_asked",
        "web_push_single_opt_in",
        "web_push_double_opt_in",
    ],
    &[
        "reminder_single_opt_in_asked",
        "reminder_single_opt_in_rejected",
    ],
    &[
        "profiling_single_opt_in_asked",
        "profiling_single_opt_in",
        "profiling_opt_out",
    ],
    &["terms_accepted", "participant_giveaway", "participation"],
    &[
        "data_collection_question",
        "data_collection_answer",
        "data_collection_question_answered",
    ],
    &["quiz_question", "quiz_answer", "quiz_answer_correct"],
    &[
        "firstname_entered",
        "lastname_entered",
        "phone_number_entered",
        "customer_updated",
    ],
    &["postal_address_updated", "postal_address_confirmed"],
    &["appointment_created"],
    &["coupon_code_issued"],
    &["win_participation", "win_won", "prize_sent"],
    &[
        "sign_up_requested",
        "sign_in_pin_mail_sent",
        "sign_in_pin_succeeded",
        "sign_up",
        "sign_in",
    ],
    &["link_clicked", "story_read"],
    &["advent_calendar_door_asked", "advent_calendar_door_opened"],
];

pub(super) fn script(s: &mut Script<'_>) {
    s.say("load", Kind::Other);
    s.wait(10..SECOND);
    if s.chance(0.1) {
        s.say("hide", Kind::Other);
        return;
    }
    s.say("show", Kind::Other);
    s.wait(SECOND..MINUTE);
    s.say("open", Kind::Other);
    let device = if s.chance(0.5) {
        "user_agent_mobile"
    } else {
        "user_agent_desktop"
    };
    for name in [
        "start",
        "participant_bpmn_process",
        "platform_rest",
        device,
        "welcome_sent",
    ] {
        s.wait(5..200);
        s.say(name, Kind::Other);
    }
    if s.chance(0.15) {
        return;
    }
    s.wait(SECOND..20 * SECOND);
    s.say("interaction", Kind::Other);
    for _ in 0..s.number(0..4) {
        intent(s);
    }
    for _ in 0..s.number(0..4) {
        let goal = s.pick(&GOALS);
        for name in goal {
            s.wait(SECOND..30 * SECOND);
            s.say(name, Kind::Other);
        }
    }
    if s.chance(0.25) {
        live_chat(s);
        if s.chance(0.15) {
            s.say("live_chat_ended", Kind::HumanLeft);
            live_chat(s);
        }
        // What did not end by itself is ended by the end of the process, if that is reached.
        if s.chance(0.9) {
            s.say("live_chat_ended", Kind::HumanLeft);
        }
    }
    if s.chance(0.05) {
        s.wait(SECOND..MINUTE);
        let again = if s.chance(0.5) { "restart" } else { "reset" };
        s.say(again, Kind::Other);
        intent(s);
    }
    if s.chance(0.35) {
        s.wait(2 * SECOND..MINUTE);
        let score = s.number(0..11) as u8;
        s.say(SCORES[usize::from(score)], Kind::Nps(score));
        if s.chance(0.3) {
            s.wait(SECOND..MINUTE);
            s.say("nps_survey_free_text_answered", Kind::Other);
        }
    }
    if s.chance(0.7) {
        s.wait(SECOND..2 * MINUTE);
        s.say("end", Kind::Closed);
        if s.chance(0.25) {
            let after = if s.chance(0.75) {
                HOUR..6 * DAY
            } else {
                7 * DAY + HOUR..9 * DAY
            };
            if s.come_back(after, false) {
                s.say("open", Kind::Other);
                intent(s);
            }
        }
    }
}

fn intent(s: &mut Script<'_>) {
    s.wait(3 * SECOND..3 * MINUTE);
    s.say("intent_evaluated", Kind::VisitorMessage);
    if s.chance(0.8) {
        s.wait(5..100);
        s.say("intent_matched", Kind::Other);
        s.wait(5..100);
        s.say("sub_process_visited", Kind::Other);
    }
}

fn live_chat(s: &mut Script<'_>) {
    s.wait(5 * SECOND..10 * MINUTE);
    s.say("live_chat_started", Kind::HumanJoined);
    for _ in 0..s.number(0..4) {
        s.wait(MINUTE..3 * MINUTE);
        s.say("live_chat_duration", Kind::Other);
    }
    s.wait(SECOND..3 * MINUTE);
}

pub(super) fn native(visit: &Visit, step: &Step, _: Call<'_>) -> String {
    // `obj` is not given before a process runs, and undefined leaves no key.
    let process = !matches!(step.name, "load" | "hide" | "show");
    Object::new()
        .with("evt", step.name)
        .with_some("bot_id", process.then(|| format!("bot-{}", visit.tenant)))
        .with_some(
            "process_id",
            process.then_some("c0ffee00-77aa-4b1c-9d0e-5a5a5a5a5a5a"),
        )
        .with_some("process_name", process.then_some("Spring giveaway"))
        .with_some("note", step.drift.then(|| visit.note()))
        .finish()
}
