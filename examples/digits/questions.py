r"""Questions about two digits, their answers, and the worked responses that models learn to write.

A response reads the picture, works the answer out and boxes it, in words that are one token each:
`<reason> left 4 right 7 4 + 7 = 11 </reason> \boxed{ 11 }`.
"""

QUESTIONS = {
    "sum": (
        "What is the sum of the two digits?",
        "Add the digit on the left and the digit on the right.",
        "What do the two numbers make together?",
    ),
    "difference": (
        "What is the difference of the two digits?",
        "Subtract the smaller digit from the larger one.",
        "What is the larger digit less the smaller digit?",
    ),
    "max": (
        "Which digit is the larger one?",
        "What is the maximum of the two digits?",
        "Give the larger of the two numbers.",
    ),
    "min": (
        "Which digit is the smaller one?",
        "What is the minimum of the two digits?",
        "Give the smaller of the two numbers.",
    ),
    "read": (
        "Read the two digits from left to right.",
        "Which two digits are in the picture?",
        "Give the two numbers in order.",
    ),
}
KINDS = tuple(QUESTIONS)


def answer(kind: str, left: int, right: int) -> str:
    r"""Return the final answer as it stands within \boxed{ }, such as "11", or "4 7" for "read"."""
    match kind:
        case "sum":
            return str(left + right)
        case "difference":
            return str(abs(left - right))
        case "max":
            return str(max(left, right))
        case "min":
            return str(min(left, right))
        case "read":
            return f"{left} {right}"
    raise ValueError(f"kind is {kind!r}, it must be one of {', '.join(KINDS)}")


def response(kind: str, left: int, right: int) -> str:
    """Return the whole response that a model should write, without the end-of-turn token."""
    small, large = sorted((left, right))
    boxed = answer(kind, left, right)
    work = {
        "sum": f"{left} + {right} = {boxed}",
        "difference": f"{large} - {small} = {boxed}",
        "max": f"the larger of {left} and {right} is {boxed}",
        "min": f"the smaller of {left} and {right} is {boxed}",
        "read": "",
    }[kind]
    words = f"<reason> left {left} right {right} {work} </reason> \\boxed{{ {boxed} }}"
    return " ".join(words.split())


def vocabulary() -> list[str]:
    """Return every word of the task, sorted: roles, questions, responses, numbers to 18."""
    texts = [question for questions in QUESTIONS.values() for question in questions]
    texts += [response(kind, 4, 7) for kind in KINDS]
    words = {"system", "user", "assistant", *map(str, range(19))}
    for text in texts:
        words.update(text.lower().replace("?", " ?").replace(".", " .").split())
    return sorted(words)
