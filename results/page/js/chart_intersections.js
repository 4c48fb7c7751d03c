// All groups of one configuration in an intersection of attributes: the chart of groups, crossed.
const drawIntersections = (view, size) => {
  const known = [
    ...new Set(
      view.db.groups.rows((row) => view.db.groups.get("data", row) === view.dataIndex).map((row) => row.grouping),
    ),
  ];
  const crossed = view.grouping.includes("*") ? view.grouping : known.find((grouping) => grouping.includes("*"));
  return crossed
    ? { ...drawGroups(view, size, crossed), ignores: crossed === view.grouping ? [] : ["grouping"] }
    : { empty: 'this sweep has no intersection; group_by = ["ethnicity*gender"] makes one' };
};
