-- Tenants at risk: whose events fail, come late, or have stopped?
--
-- For the operator: one row per tenant with a finding, the worst first. The day before until is compared with the seven
-- days before it. Thresholds: silent (nothing, where there was something), fewer than half, more than 5 % refused, more
-- than 10 % late.
-- Parameters: until
WITH
    {until:DateTime('UTC')} AS ends,
    ends - INTERVAL 1 DAY AS begins
SELECT
    tenant,
    sumIf(h.received, hour >= begins) AS received,
    round(sumIf(h.received, hour < begins) / 7, 1) AS per_day_before,
    round(sumIf(h.rejected, hour >= begins) / nullIf(received, 0), 4) AS rejected_share,
    round(sumIf(h.late, hour >= begins) / nullIf(sumIf(h.accepted, hour >= begins), 0), 4) AS late_share,
    max(hour) AS last_hour,
    arrayFilter(finding -> finding != '', [
        if(received = 0, 'silent', ''),
        if(received > 0 AND received < per_day_before / 2, 'fewer than half', ''),
        if(rejected_share > 0.05, 'refused', ''),
        if(late_share > 0.1, 'late', '')]) AS findings
FROM event_health_hour AS h
WHERE tenant != '' AND hour >= begins - INTERVAL 7 DAY AND hour < ends
GROUP BY tenant
HAVING notEmpty(findings)
ORDER BY received = 0 DESC, length(findings) DESC, per_day_before DESC, tenant
LIMIT 100;
