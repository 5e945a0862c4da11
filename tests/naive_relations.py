"""Published formulas of relation and graph losses as plain loops over numbers, in float64."""

import numpy as np


def huber(difference):
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def cosine(a, b):
    lengths = np.sqrt((a * a).sum()) * np.sqrt((b * b).sum())
    return (a * b).sum() / lengths if lengths else 0.0


def rkd_distance(student, teacher):
    n = len(student)
    potentials = []
    for states in (student, teacher):
        distances = {
            (i, j): np.sqrt(((states[i] - states[j]) ** 2).sum()) for i in range(n) for j in range(n) if i != j
        }
        mu = sum(distances.values()) / len(distances) if distances else 0
        potentials.append({pair: distance / mu if mu else 0.0 for pair, distance in distances.items()})
    ours, theirs = potentials
    rows = [[huber(ours[i, j] - theirs[i, j]) for j in range(n) if j != i] for i in range(n)]
    return np.array([np.mean(row) if row else 0.0 for row in rows])


def rkd_angle(student, teacher):
    n = len(student)
    values = []
    for j in range(n):
        losses = []
        for i in range(n):
            for k in range(n):
                if len({i, j, k}) == 3:
                    ours, theirs = (cosine(x[i] - x[j], x[k] - x[j]) for x in (student, teacher))
                    losses.append(huber(ours - theirs))
        values.append(np.mean(losses) if losses else 0.0)
    return np.array(values)


def similarity_preserving(student, teacher):
    n = len(student)
    grams = []
    for states in (student, teacher):
        gram = np.array([[(states[i] * states[j]).sum() for j in range(n)] for i in range(n)])
        grams.append(np.array([row / np.sqrt((row**2).sum()) for row in gram]))
    return np.array([((grams[0][i] - grams[1][i]) ** 2).sum() / n for i in range(n)])


def pkt(student, teacher):
    n = len(student)
    values = []
    for i in range(n):
        ours, theirs = (
            {j: (cosine(states[i], states[j]) + 1) / 2 for j in range(n) if j != i} for states in (student, teacher)
        )
        value = 0.0
        for j in ours:
            p, q = theirs[j] / sum(theirs.values()), ours[j] / sum(ours.values())
            value += p * np.log(p / q)
        values.append(value)
    return np.array(values)


def info_nce(student, teacher, temperature):
    n = len(student)
    scores = [[cosine(student[i], teacher[j]) / temperature for j in range(n)] for i in range(n)]
    values = []
    for i in range(n):
        by_student = np.exp(scores[i][i]) / sum(np.exp(scores[i][j]) for j in range(n))
        by_teacher = np.exp(scores[i][i]) / sum(np.exp(scores[j][i]) for j in range(n))
        values.append(-(np.log(by_student) + np.log(by_teacher)) / 2)
    return np.array(values)


def margin_mse(student, teacher, group=None):
    n = len(student)
    values = []
    for i in range(n):
        partners = [j for j in range(n) if j != i and (group is None or group[i] == group[j])]
        losses = [((student[i] - student[j]) - (teacher[i] - teacher[j])) ** 2 for j in partners]
        values.append(np.mean(losses) if losses else 0.0)
    return np.array(values)


def neighbours(states, k):
    """Edges of one graph; all that tie with the k-th neighbour are neighbours, too."""
    n = len(states)
    edges = np.zeros((n, n), dtype=bool)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        similarities = [cosine(states[i], states[j]) for j in others]
        if others:
            least = sorted(similarities, reverse=True)[min(k, len(others)) - 1]
            for j, similarity in zip(others, similarities, strict=True):
                if similarity >= least - 1e-12:
                    edges[i, j] = edges[j, i] = True
    return edges


def propagate(states, edges, steps):
    n = len(states)
    degree = [1 + sum(edges[i]) for i in range(n)]
    for _ in range(steps):
        states = np.array(
            [
                sum(states[j] / np.sqrt(degree[i] * degree[j]) for j in range(n) if j == i or edges[i][j])
                for i in range(n)
            ]
        )
    return states


def edge_difference(student, teacher):
    n = len(student)
    values = []
    for i in range(n):
        losses = [(cosine(student[i], student[j]) - cosine(teacher[i], teacher[j])) ** 2 for j in range(n) if j != i]
        values.append(np.mean(losses) if losses else 0.0)
    return np.array(values)


def relation_graph(student, teacher, *, k, steps, vertices, edges, project=lambda states: states):
    """One value per vertex of one graph."""
    ours, theirs = (propagate(states, neighbours(states, k), steps) for states in (student, teacher))
    value = edges * edge_difference(ours, theirs)
    if vertices:
        value = value + vertices * ((project(ours) - theirs) ** 2).mean(-1)
    return value


def pool(states, valid, pooling):
    """``[examples, width]`` of the rows that are not padding alone."""
    rows = []
    for row, mask in zip(states, valid, strict=True):
        tokens = [token for token, keep in zip(row, mask, strict=True) if keep]
        if tokens:
            rows.append({"mean": sum(tokens) / len(tokens), "cls": tokens[0], "last": tokens[-1]}[pooling])
    return np.array(rows)
