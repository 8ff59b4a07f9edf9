#!lua
-- Stores a user whom another identity has just named. Whether an operator has disabled the user stays as it is.
-- KEYS[1]  user
-- ARGV     created (Unix s), then fields and values
-- Answer   'OK'
redis.call('HSETNX', KEYS[1], 'disabled', '0')
redis.call('HSETNX', KEYS[1], 'created', ARGV[1])
redis.call('HSETNX', KEYS[1], 'password_hash', '')
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 'OK'
