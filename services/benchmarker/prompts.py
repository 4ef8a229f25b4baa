"""Default prompts for models without an evaluation set: short to long, on everyday topics."""

from services.benchmarker.domain.prompts import Message, Prompt, ask_once

_QUESTIONS = (
    "What is the capital of Portugal?",
    "Convert 72 degrees Fahrenheit to Celsius and show the formula.",
    "Give me three synonyms for 'careful'.",
    "How do I reverse a list in Python without changing the original?",
    "Translate into French: The train to Lyon leaves at a quarter past nine.",
    "Is 221 a prime number? Explain how you know.",
    "Write a polite two-sentence reply that declines an invitation to a meeting on Friday.",
    "What is the difference between a virus and a bacterium?",
    "Suggest a title for a blog post about repairing old wooden boats.",
    "List the steps to change a flat bicycle tyre.",
    "Explain to a ten-year-old why the sky is blue.",
    "Write an SQL query that finds the ten customers with the most orders in the last thirty days.",
    "What should I check before I sign a lease for a flat?",
    "Summarise the plot of Romeo and Juliet in three sentences.",
    "Why does bread dough need to rest before baking?",
    "Give a regular expression that matches dates like 2024-03-09, and explain each part.",
    "My laptop will not turn on although it is plugged in. What should I try first?",
    "Compare renting and buying a home for somebody who may move within four years.",
    "Write a short product description for a stainless steel water bottle that keeps drinks cold for a day.",
    "Which is heavier, a kilogram of feathers or a kilogram of iron? Answer in one sentence.",
    "Plan a vegetarian dinner for four people that takes under forty minutes, with a shopping list.",
    "Explain what a hash table is and when it is slower than a sorted array.",
    "Write a haiku about the first day of snow.",
    "How does interest compound monthly on 2,500 at 4 percent a year, and what is it worth after three years?",
    "A customer says that the parcel arrived damaged and wants a refund. Write the answer of the support team.",
    "What are the main causes of the decline of bees, and what can a gardener do about it?",
    "Rewrite this sentence so that it sounds less angry: You never answer my messages and I am sick of it.",
    "Explain the difference between authentication and authorisation with an everyday example.",
    "Name the planets of the solar system in order of their distance from the sun.",
    "Write a bash command that finds all files larger than 100 MB below the current folder, sorted by size.",
)

_REPORT = (
    "The harbour authority reported on Tuesday that dredging of the northern channel will begin in May, two "
    "months later than planned. Heavy storms in January damaged the breakwater, and repairs took priority over "
    "deepening the channel. Ferries will continue to run, but between the tenth and the twenty-fourth of May the "
    "evening departures will leave from the fish quay. Freight operators expect delays of up to six hours while "
    "the dredger blocks one lane. The authority will publish a timetable each Friday and asks operators to "
    "register large arrivals three days in advance. The whole project is budgeted at eleven million, of which the "
    "region pays four."
)
_CODE = (
    "def average(values):\n    total = 0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n\n\ndef report(rows):\n"
    "    for name, values in rows.items():\n        print(name, average(values))\n"
)
_MINUTES = (
    "Anna opened the meeting at nine. The new release is delayed by a week because the import of old invoices "
    "fails for customers with more than one currency. Ben found the cause and expects a fix by Wednesday. Chidi "
    "asked whether the documentation could be written in the meantime; Dana agreed to draft the chapters on "
    "reports and permissions. The load test showed that the search page needs four seconds with a hundred users; "
    "the limit is two. Ben and Chidi will look at the index on Thursday. Anna will tell the three pilot customers "
    "about the new date today. Next meeting on Friday at nine."
)

_WITH_MATERIAL = (
    f"Summarise this notice in two sentences:\n\n{_REPORT}",
    f"When do evening ferries leave from another quay, and from which one? Use only this text.\n\n{_REPORT}",
    f"List every number in the following text with what it stands for.\n\n{_REPORT}",
    f"This code crashes for some inputs. Which ones, and how would you fix it?\n\n{_CODE}",
    f"Write unit tests with pytest for this code:\n\n{_CODE}",
    f"Make a table of who does what by when from these minutes:\n\n{_MINUTES}",
    f"Write a short e-mail to a pilot customer based on these minutes:\n\n{_MINUTES}",
)

_CONVERSATIONS = (
    Prompt(
        messages=(
            Message("system", "You are a patient assistant of a public library. Answer in at most three sentences."),
            Message("user", "How long may I keep a book?"),
        )
    ),
    Prompt(
        messages=(
            Message("user", "I want to learn to swim. I am 41 and afraid of deep water."),
            Message("assistant", "That is a fine plan, and you are not alone with it. Do you have a pool near you?"),
            Message("user", "Yes, a small one with a shallow end. What should the first three visits look like?"),
        )
    ),
    Prompt(
        messages=(
            Message("user", "Recommend a book for a long train journey."),
            Message("assistant", "Do you prefer crime, history or something light?"),
            Message("user", "Something light, but not silly."),
            Message("assistant", "Then you may like a comic novel about village life."),
            Message("user", "Good. Give me two of that kind and say in one line each what they are about."),
        )
    ),
)

PROMPTS: tuple[Prompt, ...] = (*map(ask_once, _QUESTIONS + _WITH_MATERIAL), *_CONVERSATIONS)
