// What an answer may leave out is filled in here, once, so that no other module has to ask whether it is there.

const list = (value) => value ?? [];

/** An overview in which every list is a list. Blocks that are unknown stay null: `traffic`, `reference`, `labels`... */
export function wholeOverview(overview) {
  return {
    ...overview,
    state: overview.state ?? "error",
    state_since_ms: overview.state_since_ms ?? null,
    message: overview.message ?? "",
    incidents: list(overview.incidents).map((incident) => ({ ...incident, reasons: list(incident.reasons), cleared_ms: incident.cleared_ms ?? null })),
    models: list(overview.models).map((model) => ({
      ...model, windows: list(model.windows), columns: list(model.columns), segments: list(model.segments),
      performance: model.performance ? wholePerformance(model.performance) : null,
      quality: model.quality ? { ...model.quality, rejects: list(model.quality.rejects) } : null,
    })),
  };
}

function wholePerformance(performance) {
  const history = performance.history ?? {};
  return {
    ...performance, baseline: performance.baseline ?? null, windows: list(performance.windows),
    history: { end_ms: list(history.end_ms), realised: list(history.realised), estimated: list(history.estimated) },
  };
}

/** A column's details, likewise. */
export function wholeColumn(column) {
  const history = column.history ?? {};
  return {
    ...column, cells: list(column.cells), statistics: column.statistics ?? {},
    history: { ...history, end_ms: list(history.end_ms), effect: list(history.effect), missing: list(history.missing), drifted: list(history.drifted), floor: history.floor ?? null },
  };
}
