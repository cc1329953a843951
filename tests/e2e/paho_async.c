/* paho C's asynchronous client, a device: CLIENT PORT CLIENT_ID TOPIC. Subscribes and publishes without waiting, prints what comes,
 * and disconnects. */
#include <MQTTAsync.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check(const char *what, int code)
{
    if (code != 0) {
        printf("%s: %d\n", what, code);
        exit(1);
    }
}

static volatile int subscribed, heard;

static void on_subscribed(void *context, MQTTAsync_successData *data)
{
    (void)context;
    (void)data;
    subscribed = 1;
}

static int on_message(void *context, char *topic, int length, MQTTAsync_message *message)
{
    (void)length;
    (void)context;
    printf("%s %.*s\n", topic, message->payloadlen, (char *)message->payload);
    MQTTAsync_freeMessage(&message);
    MQTTAsync_free(topic);
    heard = 1;
    return 1;
}

static void on_connected(void *context, MQTTAsync_successData *data)
{
    /* As a program that has something to do: both are written one behind the other. */
    const char *topic = ((const char **)context)[0];
    MQTTAsync client = ((void **)context)[1];
    MQTTAsync_responseOptions options = MQTTAsync_responseOptions_initializer;
    MQTTAsync_message message = MQTTAsync_message_initializer;
    (void)data;
    options.onSuccess = on_subscribed;
    check("subscribe", MQTTAsync_subscribe(client, topic, 1, &options));
    message.payload = "hello from C";
    message.payloadlen = (int)strlen(message.payload);
    message.qos = 1;
    check("publish", MQTTAsync_sendMessage(client, topic, &message, NULL));
}

static void wait_for(volatile int *what)
{
    int tenths = 0;
    while (!*what && ++tenths < 300) usleep(100000);
    check("nothing happens", *what ? 0 : 1);
}

static void talk(const char *uri, const char *id, const char *topic)
{
    MQTTAsync client;
    MQTTAsync_connectOptions options = MQTTAsync_connectOptions_initializer;
    void *context[2] = {(void *)topic, NULL};
    check("create", MQTTAsync_create(&client, uri, id, MQTTCLIENT_PERSISTENCE_NONE, NULL));
    context[1] = client;
    check("callbacks", MQTTAsync_setCallbacks(client, NULL, NULL, on_message, NULL));
    options.context = context;
    options.onSuccess = on_connected;
    check("connect", MQTTAsync_connect(client, &options));
    wait_for(&subscribed);
    wait_for(&heard);
    MQTTAsync_disconnectOptions end = MQTTAsync_disconnectOptions_initializer;
    check("disconnect", MQTTAsync_disconnect(client, &end));
    while (MQTTAsync_isConnected(client)) usleep(10000);
    MQTTAsync_destroy(&client);
}

int main(int count, char **arguments)
{
    char uri[100];
    if (count != 4) return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%s", arguments[1]);
    talk(uri, arguments[2], arguments[3]);
    return 0;
}
