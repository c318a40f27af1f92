"""A new model takes over from an old one, step by step, while requests come in; a third one is tried out in shadow.

    pip install '.[demo]'    # in a clone of Pointsman
    python examples/canary_digits.py

Two classifiers of handwritten digits are trained on one half of scikit-learn's digits, and the other half is sent over
HTTP. Users are told apart by a session key, so that nobody sees the two models take turns. The shadow's answers never
reach a user: its replica writes them to a file, and they are compared with the true digits in the end.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path

import pointsman as serve
from pointsman.demo.digits import DigitClassifier, train
from pointsman.demo.load import post_all

STEPS = (0.01, 0.1, 0.25, 0.5, 1.0)
"""Share of the new model, from the canary to all."""
USERS = 2000
"""Each of them sends one image per step."""
CONNECTIONS = 4
SHADOWED = 0.25


class ShadowedClassifier(DigitClassifier):
    """Answers like any other, and notes what it answered to copies."""

    def __init__(self, path, folder):
        super().__init__(path)
        self.notes = Path(folder) / serve.get_current_replica_tag()

    def __call__(self, request):
        answer = super().__call__(request)
        if request.headers.get("x-serve-shadow") == "1":
            with self.notes.open("a") as notes:
                notes.write(json.dumps([request.json()["number"], answer["digit"]]) + "\n")
        return answer


def main():
    with tempfile.TemporaryDirectory() as folder, serve.start(http_options={"port": 0}) as client:
        print("Training two models on half of the digits ...")
        trained = train(Path(folder))
        notes = Path(folder) / "shadow"
        notes.mkdir()
        half_a_cpu = {"num_cpus": 0.5}
        old, new = trained.paths["digits-linear"], trained.paths["digits-svm"]
        client.create_backend("old", DigitClassifier, old, ray_actor_options=half_a_cpu)
        client.create_backend("new", DigitClassifier, new, ray_actor_options=half_a_cpu)
        client.create_backend("tried", ShadowedClassifier, new, str(notes), ray_actor_options=half_a_cpu)
        client.create_endpoint("digits", backend="old", route="/digits", methods=["POST"], shard_key="query:user")
        client.shadow_traffic("digits", "tried", SHADOWED)

        images, digits = trained.held_out
        bodies = [json.dumps({"number": n, "image": image}).encode() for n, image in enumerate(images)]
        numbers = [user % len(bodies) for user in range(USERS)]
        url = f"{client.http_address}/digits"
        targets = [(f"{url}?user=user-{user}", bodies[number]) for user, number in enumerate(numbers)]
        homes = {}
        print(f"{'new model':>10} {'measured':>9} {'old right':>10} {'new right':>10} {'users moved':>12}")
        for share in STEPS:
            client.set_traffic("digits", {"old": 1 - share, "new": share} if share < 1 else {"new": 1.0})
            served, right, moved = Counter(), Counter(), 0
            for user, answer in enumerate(post_all(targets, connections=CONNECTIONS)):
                backend = answer.value["backend"]
                served[backend] += 1
                right[backend] += answer.value["digit"] == digits[numbers[user]]
                moved += homes.get(user, backend) != backend
                homes[user] = backend
            print(
                f"{share:>10.0%} {served['new'] / USERS:>9.1%} {accuracy(right['old'], served['old']):>10}"
                f" {accuracy(right['new'], served['new']):>10} {moved / USERS:>12.1%}"
            )

        client.shadow_traffic("digits", "tried", 0)
        client.delete_backend("old")
        client.delete_backend("tried")  # returns when the copies under way are answered, so all notes are there
        lines = [json.loads(line) for path in notes.iterdir() for line in path.read_text().splitlines()]
        right = sum(digit == digits[number] for number, digit in lines)
        copies = len(lines) / (USERS * len(STEPS))
        print(f"shadow: {copies:.1%} of all requests were copied ({SHADOWED:.0%} asked), ", end="")
        print(f"and {accuracy(right, len(lines))} of its answers were right")
        for change in client.traffic_history("digits"):
            print(f"version {change['version']:>3}  {change['change']:<15} {change['weights']} {change['shadows']}")


def accuracy(right, total):
    return f"{right / total:.1%}" if total else "-"


if __name__ == "__main__":
    main()
