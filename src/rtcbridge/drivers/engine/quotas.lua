-- Let sessions be members of sets with a maximum each.
-- KEYS: the sets, sorted by when each membership ends unless it is said again.
-- ARGV: "take" or "hold", milliseconds that it lasts, the session, and the maximum of each set (0: none).
-- Returns 1, or 0 if a set is full, and then nothing is changed.
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lasts, session = tonumber(ARGV[2]), ARGV[3]
for index, key in ipairs(KEYS) do
  redis.call("ZREMRANGEBYSCORE", key, "-inf", now)
  local limit = tonumber(ARGV[3 + index])
  if ARGV[1] == "take" and limit > 0 and not redis.call("ZSCORE", key, session)
    and redis.call("ZCARD", key) >= limit then
    return 0
  end
end
for _, key in ipairs(KEYS) do
  redis.call("ZADD", key, now + lasts, session)
  redis.call("PEXPIRE", key, lasts)
end
return 1
