//! Numbers and names of the methods we speak.

/// A class and a method number, as the specification's XML and RabbitMQ's `amqp-rabbitmq-0.9.1.json` give them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodId(pub u16, pub u16);

macro_rules! methods {
    ($($id:ident = $class:literal, $method:literal, $name:literal;)*) => {
        impl MethodId {
            $(#[doc = $name] pub const $id: Self = Self($class, $method);)*

            /// The method's name; `None` for one that we do not speak.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$id => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

methods! {
    START = 10, 10, "connection.start";
    START_OK = 10, 11, "connection.start-ok";
    TUNE = 10, 30, "connection.tune";
    TUNE_OK = 10, 31, "connection.tune-ok";
    OPEN = 10, 40, "connection.open";
    OPEN_OK = 10, 41, "connection.open-ok";
    CLOSE = 10, 50, "connection.close";
    CLOSE_OK = 10, 51, "connection.close-ok";
    BLOCKED = 10, 60, "connection.blocked";
    UNBLOCKED = 10, 61, "connection.unblocked";
    CHANNEL_OPEN = 20, 10, "channel.open";
    CHANNEL_OPEN_OK = 20, 11, "channel.open-ok";
    CHANNEL_FLOW = 20, 20, "channel.flow";
    CHANNEL_FLOW_OK = 20, 21, "channel.flow-ok";
    CHANNEL_CLOSE = 20, 40, "channel.close";
    CHANNEL_CLOSE_OK = 20, 41, "channel.close-ok";
    EXCHANGE_DECLARE = 40, 10, "exchange.declare";
    EXCHANGE_DECLARE_OK = 40, 11, "exchange.declare-ok";
    QUEUE_DECLARE = 50, 10, "queue.declare";
    QUEUE_DECLARE_OK = 50, 11, "queue.declare-ok";
    QUEUE_BIND = 50, 20, "queue.bind";
    QUEUE_BIND_OK = 50, 21, "queue.bind-ok";
    QUEUE_DELETE = 50, 40, "queue.delete";
    QUEUE_DELETE_OK = 50, 41, "queue.delete-ok";
    QUEUE_UNBIND = 50, 50, "queue.unbind";
    QUEUE_UNBIND_OK = 50, 51, "queue.unbind-ok";
    BASIC_QOS = 60, 10, "basic.qos";
    BASIC_QOS_OK = 60, 11, "basic.qos-ok";
    BASIC_CONSUME = 60, 20, "basic.consume";
    BASIC_CONSUME_OK = 60, 21, "basic.consume-ok";
    BASIC_CANCEL = 60, 30, "basic.cancel";
    BASIC_CANCEL_OK = 60, 31, "basic.cancel-ok";
    BASIC_PUBLISH = 60, 40, "basic.publish";
    BASIC_RETURN = 60, 50, "basic.return";
    BASIC_DELIVER = 60, 60, "basic.deliver";
    BASIC_GET = 60, 70, "basic.get";
    BASIC_GET_OK = 60, 71, "basic.get-ok";
    BASIC_GET_EMPTY = 60, 72, "basic.get-empty";
    BASIC_ACK = 60, 80, "basic.ack";
    BASIC_NACK = 60, 120, "basic.nack";
    CONFIRM_SELECT = 85, 10, "confirm.select";
    CONFIRM_SELECT_OK = 85, 11, "confirm.select-ok";
    TX_SELECT = 90, 10, "tx.select";
    TX_SELECT_OK = 90, 11, "tx.select-ok";
    TX_COMMIT = 90, 20, "tx.commit";
    TX_COMMIT_OK = 90, 21, "tx.commit-ok";
    TX_ROLLBACK = 90, 30, "tx.rollback";
    TX_ROLLBACK_OK = 90, 31, "tx.rollback-ok";
}
