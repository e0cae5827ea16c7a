"""The methods of the services, as clients and forwarding nodes call them."""

from trio_eventlog.rpc import methods_of
from trio_eventlog.v1 import admin_pb2, event_log_pb2

_EVENT_LOG = methods_of(event_log_pb2.DESCRIPTOR.services_by_name["EventLog"])
_ADMIN = methods_of(admin_pb2.DESCRIPTOR.services_by_name["Admin"])
PRODUCE = _EVENT_LOG["Produce"]
PRODUCE_STREAM = _EVENT_LOG["ProduceStream"]
CONSUME = _EVENT_LOG["Consume"]
CONSUME_STREAM = _EVENT_LOG["ConsumeStream"]
APPEND = _EVENT_LOG["Append"]
READ_AGGREGATE = _EVENT_LOG["ReadAggregate"]
READ_EVENTS = _EVENT_LOG["ReadEvents"]
SEARCH_LOGS = _EVENT_LOG["SearchLogs"]
GET_SERVERS = _EVENT_LOG["GetServers"]
CREATE_TOPIC = _ADMIN["CreateTopic"]
ALTER_TOPIC = _ADMIN["AlterTopic"]
DELETE_TOPIC = _ADMIN["DeleteTopic"]
LIST_TOPICS = _ADMIN["ListTopics"]
DESCRIBE_TOPIC = _ADMIN["DescribeTopic"]
GET_STATUS = _ADMIN["GetStatus"]
GET_DISK_USE = _ADMIN["GetDiskUse"]
TRIM_PARTITION = _ADMIN["TrimPartition"]
TRANSFER_LEADERSHIP = _ADMIN["TransferLeadership"]
LIST_MEMBERS = _ADMIN["ListMembers"]
DRAIN_NODE = _ADMIN["DrainNode"]
REMOVE_NODE = _ADMIN["RemoveNode"]
TAKE_SNAPSHOT = _ADMIN["TakeSnapshot"]
BACKUP = _ADMIN["Backup"]
