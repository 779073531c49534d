-- Restated figures: which figures of past days are no longer what they were, and why?
--
-- One row per figure of a settled day that changed, the last change first. late_events is how many events of that day's
-- conversations came in between; 0: a definition or a setting changed.
-- Parameters: tenant, since, until
SELECT
    day,
    source,
    metric,
    if(kind = 'duration', old_median_ms, if(kind = 'count', old_numerator, old_numerator / nullIf(old_denominator, 0))) AS old_figure,
    if(kind = 'duration', new_median_ms, if(kind = 'count', new_numerator, new_numerator / nullIf(new_denominator, 0))) AS new_figure,
    old_n,
    new_n,
    late_events,
    settled_at,
    restated_at
FROM restatements
WHERE tenant = {tenant:String}
  AND day >= toDate({since:DateTime('UTC')}) AND day < {until:DateTime('UTC')}
ORDER BY restated_at DESC, day DESC, source, metric
LIMIT 100;
