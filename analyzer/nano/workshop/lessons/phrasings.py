"""The phrasings of questions, and the names of what is visible."""

from analyzer.nano.workshop import moments
from analyzer.nano.workshop.lessons.grammar import (
    Phrasings,
    Subject,
    phrasings_of_nouns,
    phrasings_of_subjects,
)
from analyzer.nano.workshop.renderer.events import EventKind

SOMEONE = "(someone|somebody|a person)"
ANYONE = "(someone|somebody|anybody)"
ZONE = "(restricted zone|marked area|zone|restricted area)"
WRONG = "(the wrong way|in the wrong direction|against the traffic|against the arrows)"

NOUNS: dict[Subject, tuple[str, ...]] = {
    None: ("anything unusual", "an anomaly", "something unusual"),
    EventKind.LOITERING: ("someone loitering", "a person hanging around", "someone hanging around"),
    EventKind.FALL: ("a person lying on the ground", "a fall", "someone on the ground"),
    EventKind.FIGHT: ("a fight", "people fighting", "people hitting each other"),
    EventKind.INTRUSION: (
        "someone in the restricted zone",
        "a person inside the marked area",
        "an intruder in the zone",
    ),
    EventKind.ABANDONED: ("a bag that nobody is with", "an abandoned bag", "luggage left behind"),
    EventKind.FIRE: ("a fire or smoke", "a fire", "something burning"),
    EventKind.WRONG_WAY: (
        "a vehicle driving the wrong way",
        "a car going against the traffic",
        "a car driving the wrong way",
    ),
    EventKind.CROWD: ("a crowd", "many people standing together", "a large group of people"),
}
NAMES: dict[EventKind, str] = {kind: NOUNS[kind][0] for kind in EventKind}
"""Each kind of event as a noun phrase."""

CAPTIONS: dict[EventKind, str] = {
    EventKind.LOITERING: "Someone loiters",
    EventKind.FALL: "Someone falls",
    EventKind.FIGHT: "People fight",
    EventKind.INTRUSION: "Someone is in the restricted zone",
    EventKind.ABANDONED: "A bag is left behind",
    EventKind.FIRE: "Something burns",
    EventKind.WRONG_WAY: "A vehicle drives the wrong way",
    EventKind.CROWD: "A crowd gathers",
}
NOTHING = "Nothing unusual."
NEVER, NOWHERE, MANY = "never", "nowhere", "many"
PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "middle": ("in the middle", "in the centre"),
    "right": ("on the right", "on the right side"),
}
"""The thirds of the picture, each as one word, which captions use, and as a phrase."""


KNOWN: dict[Subject, tuple[str, ...]] = {
    None: (
        "Is anything unusual happening?",
        "Is there any anomaly?",
        "Does anything here need attention?",
        "Is something wrong in this scene?",
    ),
    EventKind.LOITERING: (
        "Is someone loitering?",
        "Is somebody hanging around?",
        "Has a person been here for a long time?",
    ),
    EventKind.FALL: (
        "Has someone fallen?",
        "Is a person lying on the ground?",
        "Did anybody fall down?",
    ),
    EventKind.FIGHT: (
        "Is there a fight?",
        "Are people fighting?",
        "Is someone hitting another person?",
    ),
    EventKind.INTRUSION: (
        "Is someone in the restricted zone?",
        "Is a person inside the marked area?",
        "Did somebody enter the zone?",
    ),
    EventKind.ABANDONED: (
        "Is there a bag that nobody is with?",
        "Is there an abandoned bag?",
        "Did someone leave luggage behind?",
    ),
    EventKind.FIRE: (
        "Is there a fire?",
        "Is there fire or smoke?",
        "Is something burning?",
    ),
    EventKind.WRONG_WAY: (
        "Is a vehicle driving the wrong way?",
        "Is a car going against the traffic?",
        "Does a vehicle drive against the arrows?",
    ),
    EventKind.CROWD: (
        "Is there a crowd?",
        "Has a crowd gathered?",
        "Are many people standing together?",
    ),
}
IS = phrasings_of_subjects(
    KNOWN,
    {
        None: (
            "Is (something|anything) (unusual|strange|wrong) (happening|going on)( here|)?",
            "Is there (something|anything) (unusual|strange|wrong)( here| in this scene|)?",
            "Is there an anomaly( here| in this scene|)?",
            "Does (something|anything) here (look|seem) (unusual|strange|wrong)?",
            "Does (something|anything) need attention( here|)?",
            "Do you see (something|anything) (unusual|strange|wrong)?",
        ),
        EventKind.LOITERING: (
            "Is (someone|somebody|anybody|a person) (loitering|hanging around)( here|)?",
            f"Has {ANYONE} been (here|around) for a long time?",
            f"Does {ANYONE} (loiter|hang around)( here|)?",
            "Is there (someone|a person) (loitering|hanging around)( here|)?",
        ),
        EventKind.FALL: (
            "Has (someone|somebody|anybody|a person) fallen( down| over|)?",
            f"Did {ANYONE} fall( down| over|)?",
            f"Is {ANYONE} lying on the (ground|floor)?",
            f"Is there {SOMEONE} (lying |)on the (ground|floor)?",
            f"Do you see {SOMEONE} on the ground?",
        ),
        EventKind.FIGHT: (
            "Are (people|some people|two people) (fighting|hitting each other)( here|)?",
            "Is there (a fight|fighting)( here| going on| in this scene|)?",
            f"Is {ANYONE} (hitting|attacking) (another person|someone else)?",
            "Do you see (a fight|people fighting)?",
        ),
        EventKind.INTRUSION: (
            f"Is (someone|anybody|a person) (in|inside) the {ZONE}?",
            f"Did {SOMEONE} (enter|walk into) the {ZONE}?",
            f"Has (someone|anybody) entered the {ZONE}?",
            f"Is there (someone|an intruder) in the {ZONE}?",
        ),
        EventKind.ABANDONED: (
            "Is there (a bag|luggage) (that nobody is with|left behind|left alone)( here|)?",
            "Is there abandoned luggage( here|)?",
            f"Did {ANYONE} leave (a bag|luggage) (behind|alone)?",
            "Has (a bag|luggage) been (left|left behind|left alone|abandoned)?",
            "Do you see (a bag|luggage) (that nobody is with|left behind)?",
        ),
        EventKind.FIRE: (
            "Is there (a fire|fire|smoke or fire|fire or smoke)( here| in this scene|)?",
            "Is (something|anything) (burning|on fire)( here|)?",
            "Has (a|any) fire (started|broken out)( here|)?",
            "Do you see (a fire|fire or smoke|flames or smoke)?",
        ),
        EventKind.WRONG_WAY: (
            f"Is (a vehicle|a car|anybody) (driving|going) {WRONG}?",
            f"Does (a vehicle|a car) (drive|go) {WRONG}?",
            f"Is there (a vehicle|a car) going {WRONG}?",
        ),
        EventKind.CROWD: (
            "Is there a (crowd|large group|large group of people)( here| in this scene|)?",
            "Has a (crowd|large group|large group of people) (gathered|formed)( here|)?",
            "Are (many|a lot of) people (standing together|gathering|in one place)( here|)?",
            "Is a (crowd|large group) (gathering|forming)( here|)?",
        ),
    },
)
"""Yes if it is present in the latest window; those down to AFTER are about other spans."""

BARE: dict[Subject, tuple[str, ...]] = {
    None: ("anomalies", "anything unusual", "anything wrong"),
    EventKind.LOITERING: ("loitering", "people hanging around"),
    EventKind.FALL: ("falls", "people lying on the ground"),
    EventKind.FIGHT: ("fights", "people fighting"),
    EventKind.INTRUSION: ("intruders", "people in the zone"),
    EventKind.ABANDONED: ("abandoned bags", "luggage left behind"),
    EventKind.FIRE: ("fire", "fire or smoke"),
    EventKind.WRONG_WAY: ("vehicles going the wrong way", "cars going against the traffic"),
    EventKind.CROWD: ("crowds", "large groups of people"),
}
NOBODY = "(nobody|no one)"
FREE = phrasings_of_nouns(
    BARE,
    ("Is (the|this) scene (free of|without) {n}?", "Is the picture (free of|without) {n}?"),
    {
        None: (
            "Is everything (normal|as usual|in order)( here|)?",
            "Is nothing (unusual|strange|wrong)( happening| going on)( here|)?",
            "Is there nothing (unusual|strange|wrong)( here|)?",
            "Does everything look (normal|as usual|in order)( here|)?",
            "Is (the|this) scene (normal|as usual|in order)?",
        ),
        EventKind.LOITERING: (f"Is {NOBODY} (loitering|hanging around)( here|)?",),
        EventKind.FALL: (f"Has {NOBODY} fallen( down|)?", f"Is {NOBODY} lying on the ground?"),
        EventKind.FIGHT: (f"Is {NOBODY} (fighting|hitting another person)( here|)?",),
        EventKind.INTRUSION: (f"Is {NOBODY} (in|inside) the {ZONE}?",),
        EventKind.ABANDONED: ("Has (no bag|no luggage|nothing) been left (behind|alone)?",),
        EventKind.FIRE: ("Is nothing (burning|on fire)( here|)?",),
        EventKind.WRONG_WAY: (f"Is no (vehicle|car) (driving|going) {WRONG}?",),
        EventKind.CROWD: ("Has no (crowd|large group) (gathered|formed)?",),
    },
)
"""No if it is present."""
_OF_KINDS = {kind: NOUNS[kind] for kind in EventKind}
PLACED = phrasings_of_nouns(
    _OF_KINDS,
    ("Is there {n} {place}( of the picture|)?", "(Do|Can) you see {n} {place}?"),
)
EVER = phrasings_of_nouns(
    NOUNS,
    (
        "Has there been {n} (since the start|so far|at any time)?",
        "Was there {n} at any time?",
        "Was there ever {n}?",
    ),
)
BEFORE = phrasings_of_nouns(
    NOUNS,
    (
        "Was there {n} before (the last|the latest|this) window?",
        "Had there been {n} before (the last|the latest|this) window?",
    ),
)
AFTER = phrasings_of_nouns(
    NOUNS,
    ("(Was there|Has there been) {n} after {t} seconds?", "After {t} seconds, was there {n}?"),
)
UNTIL = phrasings_of_nouns(
    NOUNS,
    ("(Was there|Had there been) {n} before {t} seconds?", "Before {t} seconds, was there {n}?"),
)

WHEN = phrasings_of_nouns(
    _OF_KINDS,
    (
        moments.SPAN_PROMPT.replace("{event}", "{n}"),
        "When (is|was) there {n}?",
        "When (can|could) you see {n}?",
        "From when to when (is|was) there {n}?",
        "When did this begin and end: {n}?",
        "During which span (is|was) there {n}?",
    ),
)
WHERE = phrasings_of_nouns(
    _OF_KINDS,
    (
        "Where is there {n}?",
        "Where (do|can) you see {n}?",
        "On which side is there {n}?",
        "In which part of the picture is there {n}?",
    ),
)
WHAT = Phrasings.of(
    ("What is happening?",),
    (
        "What (happens|is happening|is going on)( here| in this scene| now|)?",
        "What do you see( here| in this scene| now|)?",
        "Say what (happens|is happening|is going on)( here| in this scene| now|).",
    ),
)
WHAT_BETWEEN = Phrasings.of(
    (moments.SUMMARY_PROMPT,),
    (
        "What (happens|happened|was going on) between {start:g} and {end:g} seconds?",
        "What (happens|happened|was going on) from {start:g} to {end:g} seconds?",
        "What (happens|happened) between {start:g} seconds and {end:g} seconds?",
        "Between {start:g} and {end:g} seconds, what (happens|happened|was going on)?",
    ),
)

PEOPLE = "( in the picture| in this scene| now|)"
HOW_MANY = Phrasings.of(
    ("How many people are there?",),
    (
        f"How many (people|persons) (are there|can you see|do you see){PEOPLE}?",
        "How many (people|persons) are (here|in the picture|in this scene)( now|)?",
    ),
)
MORE = Phrasings.of(
    ("Are there more than {many} people?",),
    (f"(Are there|Do you see|Can you see) more than {{many}} (people|persons){PEOPLE}?",),
)
FEWER = Phrasings.of(
    ("Are there fewer than {many} people?",),
    (f"(Are there|Do you see|Can you see) fewer than {{many}} (people|persons){PEOPLE}?",),
)
ANYBODY = Phrasings.of(
    ("Is anybody there?", "Are there any people?"),
    (
        f"Are there any (people|persons){PEOPLE}?",
        f"(Is there|Do you see|Can you see) (anybody|a person){PEOPLE}?",
        f"Is {ANYONE} (there|here|in the picture|in this scene)( now|)?",
    ),
)

_EACH = (IS, FREE, PLACED, EVER, BEFORE, AFTER, UNTIL, WHEN, WHERE)
ALL = (
    *(each for topic in _EACH for each in topic.values()),
    *(WHAT, WHAT_BETWEEN, HOW_MANY, MORE, FEWER, ANYBODY),
)
"""All that can be asked."""
